# The service's image: the locked runtime packages, the code and the migrations; no compiler, no root.

FROM python:3.13-slim AS build
RUN python -m venv /venv
# With `--build-arg LOCK=requirements-tracing.lock` it can send traces.
ARG LOCK=requirements.lock
COPY requirements.lock requirements-tracing.lock /
RUN /venv/bin/pip install --no-compile --no-cache-dir --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: -r /$LOCK
WORKDIR /app
COPY alembic.ini ./
COPY migrations migrations
COPY enrollment_service enrollment_service
# Compiled here because the service runs on a read-only file system; readable whatever the checkout's umask was. Without
# times in it, so that what is built twice is the same, and still good when times are rewritten.
RUN python -m compileall -q -f --invalidation-mode unchecked-hash /app /venv/lib && chmod -R a+rX /app /venv

FROM python:3.13-slim
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 50051
LABEL org.opencontainers.image.title="enrollment-service" \
      org.opencontainers.image.description="Students, courses, and who sits in which course, over gRPC." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# Whether it takes calls, as its own settings say where. Commands that end by themselves do not wait for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=6 CMD ["python", "-m", "enrollment_service", "health"]
ENTRYPOINT ["python", "-m", "enrollment_service"]
CMD ["serve"]
