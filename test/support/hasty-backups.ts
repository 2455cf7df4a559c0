/** Loaded before a gateway, this makes it do every 40 ms what it does every quarter of an hour: backups. */
const QUARTER_MS = 15 * 60_000
const every = globalThis.setInterval

globalThis.setInterval = ((callback: () => void, ms?: number) =>
  every(callback, ms === QUARTER_MS ? 40 : ms)) as typeof setInterval
