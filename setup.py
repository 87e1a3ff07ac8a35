from setuptools import setup
from setuptools.command.build_py import build_py


class Modules(build_py):
    """The modules that run: what compiles the engine stays in the source distribution."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Leave out the build script."""
        found = super().find_package_modules(package, package_dir)
        return [each for each in found if each[:2] != ("vhostuser.native", "build")]


abi3 = {"bdist_wheel": {"py_limited_api": "cp311"}}
setup(cffi_modules=["vhostuser/native/build.py:ffi"], cmdclass={"build_py": Modules}, options=abi3)
