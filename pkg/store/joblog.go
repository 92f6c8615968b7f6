package store

import (
	"context"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/job"
)

// AppendJobLog implements job.Store. Lines that are there already (same seq) stay as they are.
func (db *DB) AppendJobLog(ctx context.Context, id string, lines []job.LogLine) error {
	return db.InTx(ctx, func(ctx context.Context) error {
		for chunk := range slices.Chunk(lines, rowsOfOneInsert) {
			args := make([]any, 0, len(chunk)*5)
			for _, l := range chunk {
				args = append(args, id, l.Seq, stamp(l.At), l.Level, valid(l.Text))
			}
			values := strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?, ?), ", len(chunk)), ", ")
			query := "INSERT INTO `job_logs` (`job_id`, `seq`, `at`, `level`, `text`) VALUES " + values + db.d.keep("job_id,seq")
			if _, err := db.exec(ctx, "job", id, query, args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// JobLog implements job.Store: up to limit lines with seq > afterSeq, oldest first.
func (db *DB) JobLog(ctx context.Context, id string, afterSeq int64, limit int) ([]job.LogLine, error) {
	out := []job.LogLine{}
	err := db.each(ctx, "job", id, func(r *sqlx.Rows) error {
		var l job.LogLine
		var at string
		if err := r.Scan(&l.Seq, &at, &l.Level, &l.Text); err != nil {
			return err
		}
		var err error
		l.At, err = parseTime(at)
		out = append(out, l)
		return err
	}, "SELECT `seq`, `at`, `level`, `text` FROM `job_logs` WHERE `job_id` = ? AND `seq` > ? ORDER BY `seq` LIMIT ?", id, afterSeq, limitOf(limit))
	return out, err
}
