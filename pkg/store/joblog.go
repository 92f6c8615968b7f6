package store

import (
	"context"
	"slices"
	"strings"
	"time"

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

// prunedAtOnce is how many jobs one statement takes the logs of.
const prunedAtOnce = 100

// PruneJobLogs removes the logs of up to a hundred jobs that ended before the time, and gives their number: call it
// until that is 0. The jobs stay.
func (db *DB) PruneJobLogs(ctx context.Context, before time.Time) (int, error) {
	var ids []any
	err := db.each(ctx, "job", "", func(r *sqlx.Rows) error {
		var id string
		err := r.Scan(&id)
		ids = append(ids, id)
		return err
	}, "SELECT DISTINCT `job_logs`.`job_id` FROM `job_logs` JOIN `jobs` ON `jobs`.`id` = `job_logs`.`job_id`"+
		" WHERE `job_logs`.`at` < ? AND `jobs`.`finished_at` < ? LIMIT ?", stamp(before), stamp(before), prunedAtOnce)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	_, err = db.exec(ctx, "job", "", "DELETE FROM `job_logs` WHERE `job_id` IN ("+marks(len(ids))+")", ids...)
	return len(ids), err
}

// SearchLog implements job.LogStore.
func (db *DB) SearchLog(ctx context.Context, q job.LogQuery) ([]job.LogHit, error) {
	conds, args := []string{"1 = 1"}, []any{}
	where := func(cond string, values ...any) { conds, args = append(conds, cond), append(args, values...) }
	if q.ProjectID != "" {
		where("`jobs`.`project_id` = ?", q.ProjectID)
	}
	if q.JobID != "" {
		where("`job_logs`.`job_id` = ?", q.JobID)
	}
	if !q.Since.IsZero() {
		where("`job_logs`.`at` >= ?", stamp(q.Since))
	}
	if !q.Until.IsZero() {
		where("`job_logs`.`at` < ?", stamp(q.Until))
	}
	if q.Text != "" {
		where("LOWER(`job_logs`.`text`) LIKE ? ESCAPE '!'", "%"+likeEscape.Replace(strings.ToLower(q.Text))+"%")
	}
	if q.Marker != nil {
		at := stamp(q.Marker.At)
		where("(`job_logs`.`at` < ? OR (`job_logs`.`at` = ? AND (`job_logs`.`job_id` < ? OR (`job_logs`.`job_id` = ? AND `job_logs`.`seq` < ?))))",
			at, at, q.Marker.JobID, q.Marker.JobID, q.Marker.Seq)
	}
	out := []job.LogHit{}
	err := db.each(ctx, "job", q.JobID, func(r *sqlx.Rows) error {
		var h job.LogHit
		var at string
		if err := r.Scan(&h.JobID, &h.Kind, &h.Resource, &h.Seq, &at, &h.Level, &h.Text); err != nil {
			return err
		}
		var err error
		h.At, err = parseTime(at)
		out = append(out, h)
		return err
	}, "SELECT `jobs`.`id`, `jobs`.`kind`, `jobs`.`resource`, `job_logs`.`seq`, `job_logs`.`at`, `job_logs`.`level`, COALESCE(`job_logs`.`text`, '')"+
		" FROM `job_logs` JOIN `jobs` ON `jobs`.`id` = `job_logs`.`job_id` WHERE "+strings.Join(conds, " AND ")+
		" ORDER BY `job_logs`.`at` DESC, `job_logs`.`job_id` DESC, `job_logs`.`seq` DESC LIMIT ?", append(args, limitOf(q.Limit))...)
	return out, err
}

// likeEscape makes a text mean itself in LIKE.
var likeEscape = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")
