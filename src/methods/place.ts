/** Where something is kept, as a caller may know it. */
import { basename } from 'node:path'
import type { Caller } from '../broker/dispatch.ts'

/** The path for administrators, for others the name of the file: the folders of the machine are for those who may change it. */
export const placeFor = ({ scopes }: Pick<Caller, 'scopes'>, path: string): string =>
  scopes.has('operator.admin') ? path : basename(path)
