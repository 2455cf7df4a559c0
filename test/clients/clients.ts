/** Every client that is tried, in the order of the table. */
import type { Client } from './client.ts'
import { FRAMES } from './frames.ts'

export const CLIENTS: Client[] = [FRAMES]
