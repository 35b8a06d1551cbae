# An image of `samplewise serve`, without torch, to stand in front of an endpoint.
#
#     docker build -t samplewise .
#     docker run --rm samplewise --new-key alice                # prints the key, and its entry for keys.toml
#     docker run --stop-timeout 60 -p 8484:8484 -v ./keys.toml:/etc/samplewise/keys.toml:ro -v samplewise:/data samplewise \
#         --engine 'http("qwen", base_url="http://vllm:8000/v1")' --preset 'fast=repeat(8) | until(lead(3)) | vote'
#
# With `--build-arg EXTRAS=[local]` models run in the container itself, and the image is larger by torch.

FROM python:3.13-slim-bookworm AS build
ARG EXTRAS=""
WORKDIR /source
RUN python -m venv /opt/samplewise
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN /opt/samplewise/bin/pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS}"

FROM python:3.13-slim-bookworm
COPY --from=build /opt/samplewise /opt/samplewise
RUN useradd --system --uid 10001 --home-dir /data samplewise && install -d -o samplewise /data
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8484
ENV PATH=/opt/samplewise/bin:$PATH PYTHONUNBUFFERED=1
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8484/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["samplewise", "serve", "--host", "0.0.0.0", "--port", "8484", \
    "--keys", "/etc/samplewise/keys.toml", "--store", "/data/serve.db"]
