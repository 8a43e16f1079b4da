from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

NATIVE = "src/fastcas/native"

setup(
    ext_modules=cythonize(
        Extension(
            "fastcas._core",
            sources=["src/fastcas/_core.pyx", *sorted(glob(f"{NATIVE}/*.c"))],
            depends=sorted(glob(f"{NATIVE}/*.h") + glob(f"{NATIVE}/*.pxd")),
            include_dirs=[NATIVE],
            extra_compile_args=["-O3", "-pthread"],
            extra_link_args=["-ldl", "-pthread"],
        ),
        build_dir="build/cython",
        include_path=["src"],  # a .pxd finds its neighbours here, whatever is installed
        compiler_directives={"language_level": 3},
    ),
)
