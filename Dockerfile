# edgeoe on a CUDA host:  docker build -t edgeoe . && docker run --rm --gpus all -v "$PWD:/data" -w /data edgeoe doctor
# Without --gpus it compresses on the CPU.

FROM python:3.12-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY edgeoe edgeoe
COPY targets targets
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /wheels

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    python3 -m venv /opt/edgeoe && /opt/edgeoe/bin/pip install --no-cache-dir "$(ls /wheels/*.whl)[compress]"
RUN useradd --create-home --uid 10001 edgeoe
USER edgeoe
WORKDIR /home/edgeoe
ENV PATH=/opt/edgeoe/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["edgeoe"]
CMD ["--help"]
