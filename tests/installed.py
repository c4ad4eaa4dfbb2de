"""Providers that are installed for one test's daemon alone."""

from pathlib import Path


def install(folder: Path, name: str, where: str) -> dict[str, str]:
    """Make `--provider NAME` be the class at *where* (``module:Class`` in *folder*); give the variables that do."""
    info = folder / "for_a_test-0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: for-a-test\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[pyinfrakit.providers]\n{name} = {where}\n")
    return {"PYTHONPATH": str(folder)}
