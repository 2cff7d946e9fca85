"""Builds the C++ kernels; everything else about the package is in pyproject.toml.

Each instruction set of this machine's architecture becomes one shared library beside the sources,
which `pieria.kernels.cpu.native` loads by what the processor reports. They are no Python modules
and link to nothing but the C++ runtime. Without a compiler the package works, on slower kernels.
"""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = Path("src/pieria/kernels/cpu")
FLAGS = (
    *("-std=c++20", "-O3", "-g0", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wall", "-Wextra", "-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-uninitialized"),
)
X86 = {
    "portable": (),
    "avx2": ("-march=haswell",),
    "avx512": ("-march=skylake-avx512", "-mprefer-vector-width=512"),
    "avx512_vnni": ("-march=cascadelake", "-mprefer-vector-width=512"),
    "avx512_bf16": ("-march=cooperlake", "-mavx512vbmi", "-mprefer-vector-width=512"),
}
SETS = X86 if platform.machine().lower() in ("x86_64", "amd64") else {"portable": ()}


def libraries() -> list[Extension]:
    sources = sorted(str(path) for path in FOLDER.glob("*.cpp"))
    headers = sorted(str(path) for path in FOLDER.glob("*.h"))
    return [
        Extension(
            f"pieria.kernels.cpu.lib.{name}",
            sources,
            depends=headers,
            language="c++",
            extra_compile_args=[*FLAGS, *flags],
            extra_link_args=["-pthread"],
            optional=True,
        )
        for name, flags in SETS.items()
    ]


class Build(build_ext):
    """Libraries without a Python module in them, each source compiled beside the others."""

    def get_ext_filename(self, name: str) -> str:
        return str(Path(*name.split("."))) + ".so"

    def get_export_symbols(self, extension: Extension) -> list[str]:
        return []

    def copy_extensions_to_source(self) -> None:
        (FOLDER / "lib").mkdir(exist_ok=True)
        super().copy_extensions_to_source()

    def build_extension(self, extension: Extension) -> None:
        together = self.compiler.compile
        places = Path(self.build_temp) / extension.name

        def each(sources: list[str], output_dir: str | None = None, **options: object) -> list[str]:
            def one(source: str) -> list[str]:
                return together([source], output_dir=str(places), **options)

            with ThreadPoolExecutor(os.cpu_count()) as threads:
                return [path for paths in threads.map(one, sources) for path in paths]

        self.compiler.compile = each
        try:
            super().build_extension(extension)
        finally:
            self.compiler.compile = together


class Wheel(bdist_wheel):
    """For any Python 3 on this platform: the libraries know nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(ext_modules=libraries(), cmdclass={"build_ext": Build, "bdist_wheel": Wheel})
