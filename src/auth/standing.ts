/** Who was let in once, and may still send. */
import type { Devices } from './devices.ts'
import { isNamedToken, tokenPrincipal } from './principals.ts'
import type { Tokens } from './tokens.ts'

const DEVICE = /^[0-9a-f]{64}$/

/** Whether what somebody came in by still counts: a device is paired, a named token valid. From others nothing is taken away here. */
export function stands(
  principal: string,
  { devices, tokens }: { devices: Pick<Devices, 'get'>; tokens: Pick<Tokens, 'list'> },
): boolean {
  if (DEVICE.test(principal)) return devices.get(principal, 'operator') !== undefined
  if (!isNamedToken(principal)) return true
  return tokens.list().some(({ id, status }) => tokenPrincipal(id) === principal && status === 'valid')
}
