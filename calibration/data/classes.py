"""Classes of the labels, and those of the model made of them: a subset, renamed, merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calibration.labels import EVERY_CLASS, plain_name
from streamer.common.errors import ConfigError, nearest, short

IGNORE = EVERY_CLASS
"""What `ClassMap.find` returns for a region to ignore."""
LEFT_OUT = -2
"""What `ClassMap.find` returns for an object of a class that wasn't chosen."""

_IGNORE_NAMES = frozenset({"ignore", "ignored", "ignored region", "ignored regions", "dontcare", "don't care"})


class ClassMap:
    """Finds the class of the model for a class of the labels.

    Renaming comes first: names that are renamed to one are merged; then `classes` chooses, in its own order. Names are
    compared in any case; labelled classes of one name are one class. A class named ``ignore`` (or ``ignored``,
    ``ignored regions``, ``dontcare``) is none of the model's: its boxes are regions to ignore.

    Attributes:
        names: the model's classes.
    """

    def __init__(
        self, labelled: Sequence[str], classes: Sequence[str] | None = None, rename: Mapping[str, str] | None = None
    ) -> None:
        """Takes the names in the labels, by class id.

        Raises:
            ConfigError: a name to rename or choose isn't among them, or no class remains.
        """
        known = {plain_name(name) for name in labelled}
        new_names = {}
        for old, new in (rename or {}).items():
            if plain_name(old) not in known:
                raise ConfigError(f"can't rename class {short(old)}: the data has none{nearest(old, labelled)}")
            if not new.strip():
                raise ConfigError(f"can't rename class {short(old)} to an empty name")
            new_names[plain_name(old)] = new.strip()
        final = [new_names.get(plain_name(name), name) for name in labelled]
        distinct = {plain_name(name): name for name in reversed(final) if plain_name(name) not in _IGNORE_NAMES}
        if classes is None:
            ordered = dict.fromkeys(plain_name(name) for name in final if plain_name(name) in distinct)
            self.names = tuple(distinct[name] for name in ordered)
        else:
            for name in classes:
                if plain_name(name) not in distinct:
                    raise ConfigError(f"no class {short(name)} in the data{nearest(name, list(distinct.values()))}")
            self.names = tuple(distinct[name] for name in dict.fromkeys(map(plain_name, classes)))
        if not self.names:
            raise ConfigError("no class remains to train: 'names' lists none, or none was chosen")
        ids = {plain_name(name): number for number, name in enumerate(self.names)}
        self._by_id = [
            IGNORE if plain_name(name) in _IGNORE_NAMES else ids.get(plain_name(name), LEFT_OUT) for name in final
        ]
        self._by_name = {plain_name(name): target for name, target in zip(labelled, self._by_id, strict=True)}

    def find(self, category: int | str) -> int | None:
        """Returns the class id, `IGNORE` or `LEFT_OUT` for a class id or name in the labels; None if unknown."""
        if isinstance(category, int):
            return self._by_id[category] if 0 <= category < len(self._by_id) else None
        return self._by_name.get(plain_name(category))
