"""Fixtures of the data tests."""

import io
import lzma
import tarfile

import pytest


def build_deb(path, members):
    """A .deb in pure Python: an ar container around xz-compressed tar files. ``members``: name -> bytes or link."""

    def tar_xz(entries):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, data in entries.items():
                info = tarfile.TarInfo(name)
                if isinstance(data, str):
                    info.type, info.linkname = tarfile.SYMTYPE, data
                    tar.addfile(info)
                else:
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return lzma.compress(buffer.getvalue())

    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar_xz({"./control": b"Package: x\nVersion: 1\nArchitecture: all\n"}),
        "data.tar.xz": tar_xz(members),
    }
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, data in parts.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode())
            file.write(data + b"\n" * (len(data) % 2))
    return path


@pytest.fixture
def make_deb():
    """``make_deb(path, members)`` → path of a .deb that holds them."""
    return build_deb
