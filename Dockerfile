# anystroke as a BIDS-App: runs as any user, with a read-only root and without a network.
#
#   docker build --build-arg TORCH_FROM="--index-url WHEELS" -t anystroke .
#   docker run --rm --read-only --tmpfs /tmp --network none -u "$(id -u):$(id -g)" \
#       -v "$PWD/study:/data:ro" -v "$PWD/out:/out" anystroke /data /out participant
# WHEELS is the address of the builds for CPUs that PyTorch's own instructions name; without it pip may take one for
# GPUs, which makes the image three times as large.
FROM python:3.11-slim AS build
ARG TORCH_FROM=""
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /opt/anystroke \
    && /opt/anystroke/bin/pip install --no-cache-dir -c constraints.txt ${TORCH_FROM} torch \
    && /opt/anystroke/bin/pip install --no-cache-dir -c constraints.txt '.[dicom-seg]'
# Compiled loops are kept beside the modules, where the program reads them when it may not write.
RUN /opt/anystroke/bin/anystroke demo -o /tmp/demo && rm -r /tmp/demo

FROM python:3.11-slim
COPY --from=build /opt/anystroke /opt/anystroke
ENV PATH=/opt/anystroke/bin:$PATH HOME=/tmp MPLCONFIGDIR=/tmp PYTHONDONTWRITEBYTECODE=1
LABEL org.opencontainers.image.title="anystroke" \
    org.opencontainers.image.description="Finds the stroke lesion in a brain MR image, whatever the sequence. Research use only." \
    org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["anystroke"]
