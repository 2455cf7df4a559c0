// Fails when package-lock.json lacks an optional platform package that an entry names: `npm ci` would refuse it elsewhere.
import { readFileSync } from 'node:fs'

const { packages } = JSON.parse(readFileSync(new URL('../package-lock.json', import.meta.url), 'utf8'))
const missing = Object.entries(packages).flatMap(([path, { optionalDependencies = {} }]) =>
  Object.keys(optionalDependencies).filter(
    (name) => !packages[`node_modules/${name}`] && !packages[`${path}/node_modules/${name}`],
  ),
)
const addresses = Object.values(packages).filter(({ resolved }) => /^https?:/.test(resolved ?? ''))
if (missing.length > 0) console.error(`package-lock.json lacks: ${missing.join(', ')}`)
if (addresses.length > 0)
  console.error(
    `package-lock.json records ${addresses.length} download addresses; lock again with this project's .npmrc`,
  )
process.exit(missing.length + addresses.length > 0 ? 1 : 0)
