/** Certificates that were signed by nobody but themselves. */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'

export const canMakeCertificates = existsSync('/usr/bin/openssl')

/** Makes NAME.crt and NAME.key in a folder. @param names as in `subjectAltName`; @param days until it ends, from now */
export function makeCertificate(
  folder: string,
  name: string,
  { names, days = 365 }: { names?: string; days?: number } = {},
): { cert: string; key: string } {
  const [cert, key] = [join(folder, `${name}.crt`), join(folder, `${name}.key`)]
  const end = ['-days', String(days)]
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const alternatives = names === undefined ? [] : ['-addext', `subjectAltName=${names}`]
  const args = ['req', '-x509', ...curve, ...end, '-subj', `/CN=${name}`, ...alternatives, '-keyout', key, '-out', cert]
  execFileSync('openssl', args, { stdio: 'ignore' })
  return { cert, key }
}
