"""How ATEB's sets become training examples (docs/ateb.md)."""

from __future__ import annotations

import string
from dataclasses import dataclass, field

from speechde.errors import ConfigError, unknown_value
from speechde.schema import bounded, choice

PREFIX = "ateb:"  # tasks.NAME.examples=ateb:creak
TARGETS = ("label", "label+id", "label+explanation", "label+explanation+id")
FIELDS = ("label", "explanation", "id")  # of a template of an answer


def set_name(examples: str) -> str | None:
    """The set that ``tasks.NAME.examples`` names; None where it names something else."""
    return examples.removeprefix(PREFIX) if examples.startswith(PREFIX) else None


def _templates() -> dict[str, str]:
    return {
        "label": "{label}",
        "label+id": "[{id}] {label}",
        "label+explanation": "{label}. {explanation}",
        "label+explanation+id": "[{id}] {label}. {explanation}",
    }


@dataclass
class AtebConfig:
    """Of tasks whose ``examples`` are ``ateb:NAME``."""

    task: str = "creak"  # of recipe=ateb, whose task has ateb:${ateb.task}
    target: str = choice("label", *TARGETS)  # what answers of training say, where they are labels
    templates: dict[str, str] = field(default_factory=_templates)  # of each target; of {label}, {explanation} and {id}
    shuffled: bool = False  # each explanation is that of another row of its label
    field: str = "{name}: {text}"  # a field of the input; fields are joined by line breaks
    limit: int | None = bounded(None, "[1, ∞)")  # rows of train that are drawn; None: all
    held_out_limit: int | None = bounded(None, "[1, ∞)")  # rows of dev, and of test, that are drawn
    seed: int = bounded(0, "[0, ∞)")  # of these draws, and of the shuffle

    def __post_init__(self) -> None:
        for name, template in self.templates.items():
            if name not in TARGETS:
                raise unknown_value("ateb.templates", name, TARGETS)
            _check(f"ateb.templates.{name}", template, FIELDS)
        if self.target not in self.templates:
            raise ConfigError(f"ateb.target={self.target} has no template; set ateb.templates.{self.target}")
        _check("ateb.field", self.field, ("name", "text"))
        if self.shuffled and "explanation" not in self.target:
            raise ConfigError(f"ateb.shuffled needs explanations; set ateb.target=label+explanation, not {self.target}")

    @property
    def template(self) -> str:
        """That of ``target``."""
        return self.templates[self.target]


def _check(key: str, template: str, allowed: tuple[str, ...]) -> None:
    """Refuse a template with other fields than are ``allowed``, or none."""
    try:
        named = [name for _, name, spec, conversion in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"{key}={template!r} is no template ({error}); write a brace as {{{{ or }}}}") from error
    if not named or set(named) - set(allowed):
        fields = ", ".join(f"{{{name}}}" for name in allowed)
        raise ConfigError(f"{key}={template!r} has the fields {named}; allowed, and one is needed: {fields}")
