/** The version of this gateway, as package.json has it. */
import manifest from '../package.json' with { type: 'json' }

export const version: string = manifest.version
