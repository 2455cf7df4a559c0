# The gateway's image. Built from this checkout; the final stage has Node.js, one bundle, and nothing to build with.
FROM node:22-bookworm-slim AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc tsconfig.json ./
COPY tools ./tools
# Also brings the pinned Node.js of tools/node, which stays behind in this stage.
RUN npm ci --no-audit --no-fund
COPY machines ./machines
COPY src ./src
RUN node tools/build.mjs

FROM node:22-bookworm-slim
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
