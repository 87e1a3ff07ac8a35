from setuptools import setup

setup(cffi_modules=["vhostuser/native/build.py:ffi"], options={"bdist_wheel": {"py_limited_api": "cp311"}})
