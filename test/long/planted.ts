/** The faults that are planted: what the guarantee says is undone in one place. */

export interface Fault {
  /** As in the list of guarantees. */
  guarantee: string
  what: string
  file: string
  /** Stands in the file exactly once. */
  from: string
  to: string
  /** Test files that are to notice, and of these only the tests whose name has `name`. */
  tests: string[]
  name?: string
}

export const FAULTS: Fault[] = [
  {
    guarantee: 'G1',
    what: 'a frame that comes before the handshake is answered',
    file: 'src/broker/connections.ts',
    from: '        hold: (_, { connId, incoming }) => void get(connId).held.push(incoming),',
    to: "        hold: (_, { connId, incoming }) => { get(connId).held.push(incoming); get(connId).wire.send('{}') },",
    tests: ['test/transport/handshake.test.ts', 'test/broker/connections.test.ts'],
  },
  {
    guarantee: 'G2',
    what: 'a turn is acknowledged before it is on disk',
    file: 'src/broker/supervisor.ts',
    from: '      const acceptance = await store.accept(turn)\n',
    to: "      void store.accept(turn).catch(() => {})\n      const acceptance = { kind: 'accepted', runId: turn.runId, sessionId: turn.sessionId, settings: {} } as Awaited<ReturnType<typeof store.accept>>\n",
    tests: ['test/broker/supervisor.test.ts'],
  },
  {
    guarantee: 'G3',
    what: 'a key is the same in every session',
    file: 'src/broker/supervisor.ts',
    from: '  JSON.stringify([principal, method, sessionKey, key])',
    to: '  JSON.stringify([principal, method, sessionKey === undefined, key])',
    tests: ['test/broker/supervisor.test.ts'],
  },
  {
    guarantee: 'G3',
    what: 'a key is the same for every principal',
    file: 'src/stores/ledger.ts',
    from: '      const run = tables.runOf(turn)\n',
    to: "      const run = tables.runOf({ ...turn, principal: '' })\n",
    tests: ['test/stores/memory.test.ts'],
  },
  {
    guarantee: 'G3',
    what: 'a key is only looked for in memory',
    file: 'src/stores/ledger.ts',
    from: "      if (run?.fingerprint === turn.fingerprint) return { kind: 'known', run: withText(run) }\n",
    to: '',
    tests: ['test/stores/memory.test.ts'],
  },
  {
    guarantee: 'G4',
    what: 'pictures do not count for what makes a body another',
    file: 'src/broker/turns.ts',
    from: '            attachments: attachments.map(({ sha256 }) => sha256),\n',
    to: '',
    tests: ['test/wire/queue.test.ts'],
    name: 'picture',
  },
  {
    guarantee: 'G5',
    what: 'a resume leaves out the first event that was missed',
    file: 'src/broker/replay.ts',
    from: 'return offset > from.offset && offset <= position.offset',
    to: 'return offset > from.offset + 1 && offset <= position.offset',
    tests: ['test/broker/replay.test.ts'],
  },
  {
    guarantee: 'G5',
    what: 'what is said live during a resume is not kept back',
    file: 'src/methods/chat.ts',
    from: '      if (!hub.hold(caller.connId, key))',
    to: '      if (0 as unknown as boolean)',
    tests: ['test/wire/resume.test.ts'],
  },
  {
    guarantee: 'G5',
    what: 'a session whose run was cut off keeps its epoch',
    file: 'src/broker/replay.ts',
    from: '      for (const sessionKey of unfinished) {\n',
    to: '      for (const sessionKey of unfinished.slice(unfinished.length)) {\n',
    tests: ['test/wire/resume.test.ts'],
  },
  {
    guarantee: 'G6',
    what: 'one count of events is shared by all connections',
    file: 'src/broker/delivery.ts',
    from: '    recipient.seq += 1\n',
    to: '    const all = globalThis as { sent?: number }\n    recipient.seq = all.sent = (all.sent ?? 0) + 1\n',
    tests: ['test/broker/hub.test.ts'],
  },
  {
    guarantee: 'G7',
    what: 'a session begins a turn although one is under way',
    file: 'machines/session.ts',
    from: "          { actions: 'wait' },\n",
    to: "          { actions: ['wait', 'beginNext'] },\n",
    tests: ['test/broker/sessions.test.ts'],
  },
  {
    guarantee: 'G8',
    what: 'the model is asked before the start is on disk',
    file: 'src/broker/runs.ts',
    from: '          await started\n',
    to: '          void started.catch(() => {})\n',
    tests: ['test/broker/runs.test.ts'],
  },
  {
    guarantee: 'G8',
    what: 'a run that was cut off is begun again although nobody asked for that',
    file: 'src/broker/turns.ts',
    from: "const isResumed = state === 'started' && needs.recovery === 'resume' && attempt < MOST_ATTEMPTS",
    to: "const isResumed = state === 'started'",
    tests: ['test/broker/runs.test.ts'],
  },
  {
    guarantee: 'G8',
    what: 'the end of a run is announced although it is not on disk',
    file: 'src/broker/runs.ts',
    from: '          await keepEnding(run, outcome)\n        }),\n',
    to: '          void keepEnding(run, outcome).catch(() => {})\n        }),\n',
    tests: ['test/broker/runs.test.ts'],
  },
  {
    guarantee: 'G9',
    what: 'what a slow reader has not heard is left out',
    file: 'src/broker/delivery.ts',
    from: '        recipient.late.add(sessionKey, said, piece, position)\n',
    to: '',
    tests: ['test/broker/delivery.test.ts'],
  },
  {
    guarantee: 'G11',
    what: 'a stop does not wait for runs',
    file: 'src/gateway.ts',
    from: '          await runs.idle()\n',
    to: '',
    tests: ['test/wire/crash.test.ts'],
    name: 'SIGTERM',
  },
  {
    guarantee: 'G12',
    what: 'a crashed session is not begun again',
    file: 'src/broker/sessions.ts',
    from: '      if (!down.delete(key) || host.get(key)) return\n',
    to: '      if (key !== undefined) return\n',
    tests: ['test/broker/sessions.test.ts'],
  },
  {
    guarantee: 'G12',
    what: 'a throw in one actor ends the process',
    file: 'src/broker/host.ts',
    from: '          onCrash(id, error)\n',
    to: '          throw error\n',
    tests: ['test/broker/host.test.ts'],
  },
  {
    guarantee: 'G12',
    what: 'a session that always fails is begun again for ever',
    file: 'machines/supervisor.ts',
    from: "crashed: [{ guard: 'tooOften', actions: 'rest' }, { actions: 'backOff' }],",
    to: "crashed: { actions: 'backOff' },",
    tests: ['test/broker/supervisor.test.ts'],
  },
  {
    guarantee: 'G17',
    what: 'an event goes to those who may not hear it',
    file: 'src/broker/hub.ts',
    from: "return peer.role === 'operator' && holds(peer.scopes, scope)",
    to: "return peer.role === 'operator'",
    tests: ['test/broker/hub.test.ts'],
  },
  {
    guarantee: 'T17',
    what: 'scopes are what the client says they are',
    file: 'src/auth/decide.ts',
    from: 'if (grant.includes(scope as Scope)) granted.push',
    to: "if (typeof scope === 'string') granted.push",
    tests: ['test/auth/decide.test.ts'],
  },
  {
    guarantee: 'G19',
    what: 'a second process opens the same state',
    file: 'src/stores/sqlite-worker.ts',
    from: "    db.exec('PRAGMA locking_mode = EXCLUSIVE')\n",
    to: '',
    tests: ['test/stores/sqlite.test.ts'],
    name: 'opener',
  },
  {
    guarantee: 'queue',
    what: 'a turn that another was to answer is dropped when that one is stopped',
    file: 'machines/session.ts',
    from: 'queue: context.queue.filter((turn) => turn !== next) })',
    to: 'queue: context.queue.slice(group.length) })',
    tests: ['test/machines/session.test.ts'],
  },
]
