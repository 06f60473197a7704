#!/usr/bin/env python3
"""Compares every #include under src/ with cmake/layers.cmake, and keeps files readable in size.

A folder may include itself and the folders of its row; nothing else. A source file has at most 600
lines; pure tables (*.inc, *table*.cpp) are exempt.
"""
import pathlib
import re
import sys

MAX_LINES = 600


def main(root: pathlib.Path) -> int:
    rows = re.findall(r'"([\w/]+):([^"]*)"', (root / "cmake/layers.cmake").read_text())
    may = {folder: set(deps.split()) | {folder} for folder, deps in rows}
    errors, seen = [], set()
    for folder, deps in rows:
        errors += [f"cmake/layers.cmake: {folder} includes {d}, which is not below it"
                   for d in deps.split() if d not in seen]
        seen.add(folder)
    files = [p for p in (root / "src").rglob("*") if p.suffix in (".cpp", ".hpp", ".inc")]
    for path in sorted(files):
        rel = path.relative_to(root / "src")
        folder = rel.parent.as_posix()
        if folder not in may:
            errors.append(f"src/{rel}: the folder has no row in cmake/layers.cmake")
            continue
        lines = path.read_text().splitlines()
        if len(lines) > MAX_LINES and path.suffix != ".inc" and "table" not in path.name:
            errors.append(f"src/{rel}: {len(lines)} lines; split it (at most {MAX_LINES})")
        for number, line in enumerate(lines, 1):
            m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not m:
                continue
            target = pathlib.PurePosixPath(m.group(1)).parent.as_posix()
            if target == ".":
                errors.append(f"src/{rel}:{number}: write \"{folder}/{m.group(1)}\"")
            elif target not in may[folder]:
                errors.append(f"src/{rel}:{number}: {folder} may not include {target}")
    print("\n".join(errors) or f"layers: {len(files)} files in {len(may)} folders, in order")
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
