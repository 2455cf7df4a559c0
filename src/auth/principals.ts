/** What those are called who ask for something. A device is called by its id. */

/** Everybody who shows the shared token or password, or comes where none is asked for: behind it may be anybody. */
export const SHARED = 'token:shared'

/** Who came by a named token. */
export const tokenPrincipal = (id: string): string => `token:${id}`

/** Whom a proxy names. */
export const userPrincipal = (name: string): string => `user:${name}`

/** Whether somebody came by a token that was given out by hand: the shared one, or one by name. */
export const isToken = (principal: string): boolean => principal.startsWith('token:')

export const isNamedToken = (principal: string): boolean => isToken(principal) && principal !== SHARED
