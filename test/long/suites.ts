/** The long suites by name. */
import { clock } from './clock.ts'
import { council } from './council.ts'
import { crash } from './crash.ts'
import { damage } from './damage.ts'
import { dead } from './dead.ts'
import { disk } from './disk.ts'
import { drain } from './drain.ts'
import { faults } from './faults.ts'
import { flood } from './flood.ts'
import { fuzz } from './fuzz.ts'
import { order } from './order.ts'
import { pairing } from './pairing.ts'
import { power } from './power.ts'
import { races } from './races.ts'
import { replay } from './replay.ts'
import { revoke } from './revoke.ts'
import { schedule } from './schedule.ts'
import { slow } from './slow.ts'
import type { Suite } from './suite.ts'
import { timing } from './timing.ts'

export const suites: Record<string, Suite> = {
  crash,
  replay,
  drain,
  order,
  damage,
  power,
  slow,
  disk,
  dead,
  clock,
  races,
  faults,
  fuzz,
  timing,
  pairing,
  flood,
  revoke,
  council,
  schedule,
}
