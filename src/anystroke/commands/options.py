"""Options of a verb as dataclasses: field by field on the command line, one object behind it."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer
from typer.models import ParameterInfo
from typing_extensions import Doc

Result = TypeVar("Result")

Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")]
ModelName = Annotated[
    str, typer.Option("--model", metavar="NAME|DIR", help="A shipped model, or a model folder.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(help="Where networks compute; auto: a GPU if there is one."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks.")]


def with_options(verb: Callable[..., Result]) -> Callable[..., Result]:
    """Let each parameter that is a dataclass stand for the options that its fields are.

    A field is an option if its annotation says what typer needs, or holds a `typing_extensions.Doc`, which
    becomes the help: then a switch that is on unless switched off, ``report``, is ``--no-report``. Other
    fields keep their default.

    Args:
        verb: A function of typer's; its dataclasses are frozen and have a default for each field.

    Returns:
        The function that typer takes, with all fields as keyword arguments.

    Raises:
        TypeError: Two options have one name.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Greeting:
        ...     loud: Annotated[bool, Doc("Shout.")] = False
        >>> @with_options
        ... def greet(name: str, greeting: Greeting) -> str:
        ...     return name.upper() if greeting.loud else name
        >>> list(inspect.signature(greet).parameters), greet(name="ada", loud=True)
        (['name', 'loud'], 'ADA')
    """
    hints = get_type_hints(verb, include_extras=True)
    parameters: dict[str, inspect.Parameter] = {}
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            found = _options_of(hints[name])
        else:
            kind = inspect.Parameter.KEYWORD_ONLY
            found = {name: parameter.replace(annotation=hints[name], kind=kind)}
        if twice := found.keys() & parameters.keys():
            raise TypeError(f"{verb.__name__} has two options called {', '.join(sorted(twice))}")
        parameters |= found

    @wraps(verb)
    def call(**given: Any) -> Result:
        for name, group in groups.items():
            off = _switched_off(group)
            chosen = {each: given.pop(each) for each in _options_of(group) if each in given}
            given[name] = group(
                **{each: not value if each in off else value for each, value in chosen.items()}
            )
        return verb(**given)

    signature = inspect.Signature(list(parameters.values()), return_annotation=hints.get("return"))
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {name: each.annotation for name, each in parameters.items()}
    return call


def _options_of(group: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters that typer makes the options of a dataclass from."""
    off = _switched_off(group)
    found = {}
    for name, (kind, told, default) in _fields(group).items():
        if told is not None:
            switch = kind.__origin__ is bool
            names = (f"--{'no-' if name in off else ''}{name.replace('_', '-')}",) if switch else ()
            kind = Annotated[kind.__origin__, typer.Option(*names, help=told)]
            default = False if switch else default
        elif not any(isinstance(each, ParameterInfo) for each in getattr(kind, "__metadata__", ())):
            continue
        found[name] = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
        )
    return found


def _switched_off(group: Any) -> set[str]:
    """Return the names of the documented switches that are on by default."""
    return {name for name, (_, told, default) in _fields(group).items() if default is True and told}


def _fields(group: Any) -> dict[str, tuple[Any, str | None, Any]]:
    """Return of each field its annotation, what a `Doc` in it says, and its default."""
    hints = get_type_hints(group, include_extras=True)
    told = {
        name: [each.documentation for each in getattr(kind, "__metadata__", ()) if isinstance(each, Doc)]
        for name, kind in hints.items()
    }
    return {
        field.name: (hints[field.name], next(iter(told[field.name]), None), field.default)
        for field in fields(group)
    }
