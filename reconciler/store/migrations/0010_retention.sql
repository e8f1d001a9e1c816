-- requires: 7
-- Up to which number of its log an integration keeps no more of a record than one version needs: the last.
ALTER TABLE integration ADD COLUMN cut_number {bigint} NOT NULL DEFAULT 0;
