"""Make the Auto classes of transformers know DynImg as soon as somebody uses them, without importing transformers.

Importing transformers' Auto modules takes seconds, and importing our model in the midst of it would run in circles. So
each module gets, once it is imported, a mapping that brings in `dynimg_vl.model` when "dynimg" or a class by name is
looked up; that import then registers everything in the documented way.
"""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MAPPINGS = {
    "transformers.models.auto.configuration_auto": "CONFIG_MAPPING",
    "transformers.models.auto.processing_auto": "PROCESSOR_MAPPING",
    "transformers.models.auto.video_processing_auto": "VIDEO_PROCESSOR_MAPPING",
}
"""The modules that are asked for a class before anything else of DynImg is imported, and their mappings."""

MODEL_TYPE = "dynimg"


class _OnDemand(dict):
    """Hold what is registered beside transformers' own classes, and bring in ours when it is asked for."""

    def __init__(self, entries: dict[Any, Any], with_model_type: bool) -> None:
        super().__init__(entries)
        self._asked = False
        if with_model_type and MODEL_TYPE not in self:
            self[MODEL_TYPE] = None

    def _ask(self) -> None:
        # The flag comes first: the import below looks up other classes in the same mapping.
        if not self._asked:
            self._asked = True
            importlib.import_module("dynimg_vl.model")

    def __getitem__(self, key: Any) -> Any:
        if key == MODEL_TYPE:
            self._ask()
        return super().__getitem__(key)

    def values(self) -> Any:
        self._ask()
        return super().values()

    def items(self) -> Any:
        self._ask()
        return super().items()


class _Hook(MetaPathFinder):
    """Find the modules of `MAPPINGS` as usual, and prepare each after it has run."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in MAPPINGS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Run a module by its own loader, then prepare its mapping."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _prepare(module)


def install() -> None:
    """Prepare the Auto modules that are imported already, and the others when they are."""
    for name in MAPPINGS:
        if (module := sys.modules.get(name)) is not None:
            _prepare(module)
    if not any(isinstance(finder, _Hook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hook())


def _prepare(module: ModuleType) -> None:
    mapping = getattr(module, MAPPINGS[module.__name__], None)
    entries = getattr(mapping, "_extra_content", None)
    # In a version of transformers that keeps its registry elsewhere, DynImg is known after `import dynimg_vl.model`.
    if mapping is not None and isinstance(entries, dict) and not isinstance(entries, _OnDemand):
        mapping._extra_content = _OnDemand(entries, with_model_type=module.__name__.endswith("configuration_auto"))
