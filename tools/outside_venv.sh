# Sourced by tools/bench_architectures: .venv-outside, which sees the packages of .venv and adds those of
# tools/outside_requirements.txt. None of their code enters the repository.
stamp=.venv-outside/edgeoe-outside.sha256
wanted=$(sha256sum tools/outside_requirements.txt pyproject.toml)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    [ -x .venv-outside/bin/python ] || .venv/bin/python -m venv .venv-outside
    ask='import sysconfig; print(sysconfig.get_path("purelib"))'
    echo "import site; site.addsitedir('$(.venv/bin/python -c "$ask")')" \
        > "$(.venv-outside/bin/python -c "$ask")/packages-of-edgeoe.pth"
    .venv-outside/bin/python -m pip install --quiet --disable-pip-version-check --requirement tools/outside_requirements.txt
    echo "$wanted" > "$stamp"
fi
