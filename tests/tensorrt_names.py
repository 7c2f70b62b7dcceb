"""Every name that the program uses of TensorRT, read from its source."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from streamer.engines import tensorrt_engine
from streamer.engines.tensorrt import loading

PACKAGE = Path(loading.__file__).parent

_OWNERS = {
    "trt": "",
    "_trt": "",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "_runtime": "Runtime",
    "runtime": "Runtime",
}

_VARIABLES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "image": "ITensor",
    "tensor": "ITensor",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
}


def runtime_names() -> set[tuple[str, str]]:
    """Returns (TensorRT class or "", dotted name) for all that loading and running asks of TensorRT."""
    used = set()
    modules = (ast.parse(inspect.getsource(module)) for module in (tensorrt_engine, loading))
    for node in (node for module in modules for node in ast.walk(module)):
        names: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            names.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            names.insert(0, inner.id)
        if names[:1] == ["self"]:
            names = names[1:]
        if len(names) > 1 and names[0] in _OWNERS:
            used.add((_OWNERS[names[0]], ".".join(names[1:])))
    return used


def builder_names() -> set[str]:
    """Returns every name that streamer/engines/tensorrt uses of the module, such as ``BuilderFlag.REFIT``."""
    used = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words: list[str] = []
            while isinstance(node, ast.Attribute):
                words.insert(0, node.attr)
                node = node.value
            if words and isinstance(node, ast.Name):
                if node.id == "trt":
                    used.add(".".join(words))
                elif node.id in _VARIABLES and path.name == "builder.py":
                    used.add(f"{_VARIABLES[node.id]}.{words[0]}")
    return used
