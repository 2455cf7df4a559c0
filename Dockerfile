# The gateway's image. Built from this checkout; the final stage has Node.js, one bundle, and nothing to build with.
# Another Debian with Node.js 22.18 or later and npm does as well: --build-arg NODE_IMAGE=node:24-bookworm-slim
ARG NODE_IMAGE=node:22-bookworm-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
COPY tools/node ./tools/node
# Also brings the pinned Node.js of tools/node, which stays behind in this stage.
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json ./
COPY tools ./tools
COPY machines ./machines
COPY src ./src
RUN node tools/build.mjs

FROM ${NODE_IMAGE}
# Debian packages for health checks and tool servers of yours: --build-arg PACKAGES="curl git"
ARG PACKAGES=""
RUN if [ -n "$PACKAGES" ]; then \
    apt-get update && apt-get install -y --no-install-recommends $PACKAGES && rm -rf /var/lib/apt/lists/* /var/cache/apt/*; \
  fi
LABEL org.opencontainers.image.title="kurultai-gateway" \
  org.opencontainers.image.description="A gateway for agents: an actor-model message broker that speaks the OpenClaw gateway's wire and never loses a turn." \
  org.opencontainers.image.version="0.1.0" \
  org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 1001 kurultai \
  && useradd --uid 1001 --gid 1001 --no-create-home --home-dir /data kurultai \
  && mkdir -p /data/.openclaw && chown -R 1001:1001 /data && chmod 700 /data/.openclaw
WORKDIR /app
COPY --from=build /build/dist ./dist
COPY package.json LICENSE ./
# Two names for one command: the second is the one that scripts written for the reference gateway call.
RUN ln -s /app/dist/index.js /usr/local/bin/kurultai && ln -s /app/dist/index.js /usr/local/bin/openclaw
ENV NODE_ENV=production HOME=/data
USER 1001:1001
VOLUME /data
EXPOSE 18789
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:18789/health').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
CMD ["node", "--disable-proto=throw", "dist/index.js", "gateway", "--bind", "lan", "--port", "18789", "--allow-unconfigured"]
