from setuptools import setup

abi3 = {"bdist_wheel": {"py_limited_api": "cp311"}}
setup(cffi_modules=["vhostuser/native/build.py:ffi"], options=abi3)
