# Sourced by the tools: .venv with edgeoe and the extras named in $1, installed anew when pyproject.toml changed.
# PYTHON names the interpreter to use, python3 unless told.
stamp=.venv/edgeoe-${1:-plain}.sha256
wanted=$(sha256sum pyproject.toml)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || {
        echo "edgeoe needs Python 3.10 to 3.13; set PYTHON to one." >&2
        exit 2
    }
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}"
    echo "$wanted" > "$stamp"
fi
