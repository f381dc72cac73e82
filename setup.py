from setuptools import setup

setup(cffi_modules=["mcr/native/build.py:ffi"])
