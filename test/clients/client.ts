/** What a row of the table of clients is: somebody else's client, and what it was made to do. */

/** Something that a client was made to do. Throws a sentence when it did not go as its user expects. */
export interface Command {
  /** As one would type it, or what one would do. */
  name: string
  run(): Promise<void>
}

export interface Session {
  /** Done one after another, in this order. */
  commands: Command[]
  /** Ends whatever was started. */
  close(): Promise<void>
}

export interface Client {
  /** What its maker calls it. */
  name: string
  version: string
  /** The protocols that it speaks. */
  protocol: '3' | '4' | '3, 4' | 'HTTP'
  /** Debian packages that it needs. Without them it is left out, and said so. */
  needs?: { name: string; file: string }[]
  /** Installs it, and starts what its commands talk to. */
  open(): Promise<Session>
}
