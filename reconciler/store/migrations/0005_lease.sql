-- Who leads: one at a time by the database's clock. `term` rises with every change of hands.
CREATE TABLE lease (
  name TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  term {bigint} NOT NULL,
  until TEXT NOT NULL
);
