"""What a command line asks of Hydra beside its overrides.

In: attributes of the same names, as argparse gives them. Out: `Flags`, which `conf.compose` carries out. Must not know:
Hydra, whose import takes a quarter of a second.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Flags:
    """The names are those of Hydra's own flags."""

    multirun: bool = False  # one run for each value of overrides that have several
    cfg: str | None = None  # print "job" (the settings), "hydra" (Hydra's own) or "all" instead of running
    package: str | None = None  # with cfg: this section alone
    resolve: bool = False  # with cfg: no ${key} stays
    info: str | None = None  # print how the configuration is composed instead of running
    config_dir: str | None = None  # a further folder of YAML files
    config_path: str | None = None  # the folder of YAML files in place of FOLDER
    config_name: str | None = None  # the YAML file to begin with

    @classmethod
    def of(cls, options: Any) -> Flags:
        """From attributes of the same names, as argparse gives them."""
        return cls(**{one.name: getattr(options, one.name) for one in fields(cls)})

    @property
    def shows(self) -> bool:
        """Something is printed, and nothing runs."""
        return bool(self.cfg or self.info)

    @property
    def own_files(self) -> bool:
        """YAML files other than ours are read."""
        return bool(self.config_dir or self.config_path or self.config_name)

    @property
    def words_of_files(self) -> list[str]:
        """The options that name them, as a command line has them."""
        names = {"--config-dir": self.config_dir, "--config-path": self.config_path, "--config-name": self.config_name}
        return [word for option, value in names.items() if value for word in (option, value)]

    @property
    def of_member(self) -> Flags:
        """Those of one run of a multirun."""
        return replace(self, multirun=False)


NO_FLAGS = Flags()
