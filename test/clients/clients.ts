/** Every client that is tried, in the order of the table. */
import type { Client } from './client.ts'
import { openclaw26 } from './openclaw-2026.2.6.ts'

export const CLIENTS: Client[] = [openclaw26]
