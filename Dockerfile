# The program `spcnet` with the packages of its extras, on a processor or, by argument, on NVIDIA GPUs; see docs/install.md.
ARG PYTHON=3.13
FROM python:${PYTHON}-slim

# Which build of PyTorch: .../whl/cpu, .../whl/cu128, ...
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=app,video,onnx,hub
ARG USER_ID=1000

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# Before the project is copied: a change of its code does not install PyTorch again.
RUN pip install torch torchvision --index-url ${TORCH_INDEX}

COPY pyproject.toml README.md LICENSE /src/
COPY recipes /src/recipes
COPY spcnet /src/spcnet
RUN pip install "/src[${EXTRAS}]" && rm -rf /src

RUN useradd --uid ${USER_ID} --create-home --home-dir /workspace spcnet
USER spcnet
WORKDIR /workspace

# The web demo (spcnet app).
EXPOSE 7860

ENTRYPOINT ["spcnet"]
CMD ["--help"]
