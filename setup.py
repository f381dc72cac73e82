"""Builds what is written in C: the extension module `mcr._native`, and the program `mcrd`."""

import os
from pathlib import Path

from setuptools import Extension, setup  # brings distutils along, which Python no longer has
from setuptools.command.build_ext import build_ext

# isort: split
from distutils.ccompiler import new_compiler
from distutils.command.build_scripts import build_scripts
from distutils.sysconfig import customize_compiler

OPTIONS = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra"]


class BuildModule(build_ext):
    """Compiles the extension module, or only links it: MCR_COMPILED is a directory where it was compiled just so."""

    def build_extension(self, ext: Extension) -> None:
        """Build it."""
        if compiled := os.environ.get("MCR_COMPILED"):
            names = self.compiler.object_filenames(sorted(ext.sources), output_dir=self.build_temp)
            objects = [Path(compiled, each) for each in names]
            if all(each.exists() for each in objects):
                ext.sources, ext.extra_objects = [], list(map(str, objects))
        super().build_extension(ext)


class BuildPrograms(build_scripts):
    """Compiles the scripts, which are C files."""

    def copy_scripts(self) -> None:
        """Compile them."""
        compiler = new_compiler()
        customize_compiler(compiler)
        temporary = self.get_finalized_command("build").build_temp
        for source in self.scripts:
            objects = compiler.compile([source], output_dir=temporary, extra_postargs=OPTIONS)
            compiler.link_executable(objects, Path(source).stem, output_dir=self.build_dir)


# tools/setup.sh has tools/build_native.sh build them, beside what pip does.
built = "MCR_BUILT_APART" not in os.environ

setup(
    cffi_modules=["mcr/native/build.py:ffi"] if built else [],
    scripts=["mcr/cli/mcrd.c"] if built else [],
    cmdclass={"build_ext": BuildModule, "build_scripts": BuildPrograms},
)
