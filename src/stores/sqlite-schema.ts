/**
 * The tables of a store file, as the steps that led to them. A file says in `user_version` how many steps it has taken.
 *
 * A record is kept as JSON, beside the columns it is looked up by: node:sqlite ends a text it reads at the first NUL
 * (Node 22), and JSON has none. A column that may hold a foreign text is therefore compared but never read.
 */
import { DatabaseSync } from 'node:sqlite'

/** Each step is applied in a transaction of its own and never edited once released. */
const steps: string[] = [
  `
  CREATE TABLE sessions (
    key TEXT PRIMARY KEY,
    updated_at INTEGER NOT NULL,
    record TEXT NOT NULL
  ) WITHOUT ROWID;
  CREATE INDEX sessions_by_update ON sessions (updated_at DESC, key);

  -- Every transcript a session has had. session_key is JSON, as it is read.
  CREATE TABLE transcripts (
    session_id TEXT PRIMARY KEY,
    session_key TEXT NOT NULL
  ) WITHOUT ROWID;
  CREATE INDEX transcripts_by_session ON transcripts (session_key);

  CREATE TABLE messages (
    session_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (session_id, seq)
  ) WITHOUT ROWID;

  -- seq is the order of admission.
  CREATE TABLE runs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL UNIQUE,
    accepted_at INTEGER NOT NULL,
    ended_at INTEGER,
    record TEXT NOT NULL
  );
  CREATE INDEX runs_open ON runs (seq) WHERE ended_at IS NULL;
  CREATE INDEX runs_ended ON runs (accepted_at) WHERE ended_at IS NOT NULL;

  -- One admission per four. run is runs.seq.
  CREATE TABLE keys (
    principal TEXT NOT NULL,
    method TEXT NOT NULL,
    session_key TEXT NOT NULL,
    key TEXT NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (principal, method, session_key, key)
  ) WITHOUT ROWID;
  CREATE INDEX keys_by_run ON keys (run);

  -- What a started run has streamed: apart from runs, so that saving it rewrites nothing else. text is JSON.
  CREATE TABLE texts (
    run_id TEXT PRIMARY KEY,
    text TEXT NOT NULL
  );

  CREATE TABLE blobs (
    sha256 TEXT PRIMARY KEY,
    bytes BLOB NOT NULL
  );
  -- Who needs a blob: 'run:<runId>' or 'transcript:<sessionId>'.
  CREATE TABLE holds (
    holder TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (holder, sha256)
  ) WITHOUT ROWID;
  CREATE INDEX holds_by_blob ON holds (sha256);

  -- record is {"id": …, "value": …}.
  CREATE TABLE documents (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (kind, id)
  ) WITHOUT ROWID;
  `,
  `
  -- The run's session, as JSON, until its end is announced. Whatever schema 1 accepted counts as announced.
  ALTER TABLE runs ADD COLUMN unannounced TEXT;
  CREATE INDEX runs_unannounced ON runs (unannounced) WHERE unannounced IS NOT NULL AND ended_at IS NOT NULL;

  -- record is a StreamRecord; last is its offset.
  CREATE TABLE streams (
    seq INTEGER PRIMARY KEY,
    session_key TEXT NOT NULL UNIQUE,
    last INTEGER NOT NULL,
    record TEXT NOT NULL
  );

  -- Of the present epoch. stream is streams.seq.
  CREATE TABLE chunks (
    seq INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    at INTEGER NOT NULL,
    events TEXT NOT NULL
  );
  CREATE UNIQUE INDEX chunks_by_stream ON chunks (stream, last);
  CREATE INDEX chunks_by_time ON chunks (at);
  `,
  `
  -- Age is counted in eras (see ledger.ts); whatever an older gateway kept grows old from now on.
  DROP INDEX runs_ended;
  ALTER TABLE runs RENAME COLUMN accepted_at TO era;
  UPDATE runs SET era = 0;
  CREATE INDEX runs_ended ON runs (era) WHERE ended_at IS NOT NULL;
  DROP INDEX chunks_by_time;
  ALTER TABLE chunks RENAME COLUMN at TO era;
  UPDATE chunks SET era = 0;
  CREATE INDEX chunks_by_era ON chunks (era);

  -- CRC-32 of the bytes; null for those of an older gateway.
  ALTER TABLE blobs ADD COLUMN seal INTEGER;

  -- One row: how many transactions have changed something.
  CREATE TABLE commits (record TEXT NOT NULL);
  INSERT INTO commits VALUES ('00000000');
  `,
  `
  -- Runs that follow from another; what an outsider asks for has no row. run is runs.seq; agent is whom it was sent to, if an
  -- agent sent it; unheard is 1 when it has ended and its answer is to be told, else null.
  CREATE TABLE mail (
    run INTEGER PRIMARY KEY,
    chain TEXT,
    agent TEXT,
    unheard INTEGER
  );
  CREATE INDEX mail_by_chain ON mail (chain) WHERE chain IS NOT NULL;
  CREATE INDEX mail_by_agent ON mail (agent) WHERE agent IS NOT NULL;
  CREATE INDEX mail_unheard ON mail (unheard) WHERE unheard IS NOT NULL;

  -- record is a UsageDay.
  CREATE TABLE usage (
    day TEXT NOT NULL,
    session_key TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (day, session_key, provider, model)
  ) WITHOUT ROWID;
  CREATE INDEX usage_by_session ON usage (session_key, day, provider, model);
  `,
  `
  -- What sessions are yet to hear of, in the order it came. record is a SystemEvent.
  CREATE TABLE system_events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    session_key TEXT NOT NULL,
    id TEXT NOT NULL,
    record TEXT NOT NULL
  );
  CREATE UNIQUE INDEX system_events_by_session ON system_events (session_key, id);

  -- record is a CronJob.
  CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    record TEXT NOT NULL
  ) WITHOUT ROWID;

  -- Once for each time that a job was due. record is a Firing; is_open is 1 while it is under way, else null.
  CREATE TABLE firings (
    job TEXT NOT NULL,
    due INTEGER NOT NULL,
    is_open INTEGER,
    record TEXT NOT NULL,
    PRIMARY KEY (job, due)
  ) WITHOUT ROWID;
  CREATE INDEX firings_open ON firings (is_open) WHERE is_open IS NOT NULL;
  CREATE INDEX firings_by_due ON firings (due DESC, job);
  `,
]

/** The schema this gateway writes. */
export const knownSchema = steps.length

/** The step that began to count commits. */
export const withCommits = 3

/** How many steps a file has taken; 0 for a new one. */
export const schemaOf = (db: DatabaseSync): number => {
  const row = db.prepare('PRAGMA user_version').get()
  return Number(row?.['user_version'])
}

const namesOf = (db: DatabaseSync): string[] =>
  db
    .prepare('SELECT name FROM sqlite_schema')
    .all()
    .map(({ name }) => String(name))

/** Whether a file has what its steps make and nothing later steps make: its version alone may be damaged. */
export const schemaFits = (db: DatabaseSync): boolean => {
  const fresh = new DatabaseSync(':memory:')
  try {
    migrate(fresh, schemaOf(db))
    const due = namesOf(fresh)
    migrate(fresh)
    const found = new Set(namesOf(db))
    return namesOf(fresh).every((name) => found.has(name) === due.includes(name))
  } finally {
    fresh.close()
  }
}

/**
 * Whether a file is made exactly as the steps known here make one. Its version is a number in its header, which damage can raise;
 * a later step would have made something, too.
 */
export const isOfKnownSchema = (db: DatabaseSync): boolean => {
  const fresh = new DatabaseSync(':memory:')
  try {
    migrate(fresh)
    const made = (one: DatabaseSync) =>
      JSON.stringify(one.prepare('SELECT type, name, sql FROM sqlite_schema ORDER BY type, name').all())
    return made(fresh) === made(db)
  } finally {
    fresh.close()
  }
}

/** Takes the steps a file has not taken yet. A crash between them leaves a file the next call goes on with. */
export const migrate = (db: DatabaseSync, to = knownSchema): void => {
  for (let version = schemaOf(db); version < to; version += 1) {
    db.exec('BEGIN IMMEDIATE')
    try {
      db.exec(steps[version]!)
      db.exec(`PRAGMA user_version = ${version + 1}`)
      db.exec('COMMIT')
    } catch (error) {
      if (db.isTransaction) db.exec('ROLLBACK')
      throw error
    }
  }
}
