"""What people have, and what is written for them: files, names, BIDS, DICOM, labelled data sets."""
