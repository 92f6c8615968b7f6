package store

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/listing"
)

// table maps one struct of the domain to one SQL table. Its columns are the struct's JSON names.
type table[T any] struct {
	name     string // of the SQL table
	resource string // in codes and texts: "build"
	key      string // column of the id
	cols     []column
	from     string            // FROM clause, where it is more than the table
	exprs    map[string]string // columns that are computed; they are read and never written
	project  bool              // has project_id
	filters  []string
	sorts    []string // columns without NULL
	order    []listing.Key
}

// spec is what a table says beside its struct's fields.
type spec struct {
	name, resource, key string
	flat                []string
	skip                []string // fields that another table holds
	from                string
	exprs               map[string]string
	filters, sorts      []string
	order               []listing.Key
}

func tableOf[T any](s spec) table[T] {
	flat := map[string]bool{}
	for _, f := range s.flat {
		flat[f] = true
	}
	cols := columnsOf(reflect.TypeFor[T](), "", nil, flat)
	cols = slices.DeleteFunc(cols, func(c column) bool { return slices.Contains(s.skip, c.name) })
	t := table[T]{
		name: s.name, resource: s.resource, key: s.key, cols: cols, from: s.from, exprs: s.exprs,
		filters: s.filters, sorts: s.sorts, order: s.order,
	}
	if t.key == "" {
		t.key = "id"
	}
	if t.from == "" {
		t.from = quote(t.name)
	}
	_, t.project = t.column("project_id")
	return t
}

var newestFirst = []listing.Key{{Field: "created_at", Desc: true}}

func byName() []listing.Key { return []listing.Key{{Field: "name"}} }

func (t table[T]) column(name string) (column, bool) {
	for _, c := range t.cols {
		if c.name == name {
			return c, true
		}
	}
	return column{}, false
}

// ref is the column in a SELECT or WHERE.
func (t table[T]) ref(name string) string {
	if e, ok := t.exprs[name]; ok {
		return e
	}
	return quote(t.name) + "." + quote(name)
}

func (t table[T]) selectFrom() string {
	names := make([]string, len(t.cols))
	for i, c := range t.cols {
		names[i] = t.ref(c.name)
	}
	return "SELECT " + strings.Join(names, ", ") + " FROM " + t.from
}

func (t table[T]) scan(r *sqlx.Rows, row *T) error {
	v := reflect.ValueOf(row).Elem()
	dests := make([]any, len(t.cols))
	for i, c := range t.cols {
		dests[i] = c.dest(v)
	}
	return r.Scan(dests...)
}

// written lists the columns of INSERT; those of a later UPDATE are without the id and created_at.
func (t table[T]) written(later bool) []column {
	return slices.DeleteFunc(slices.Clone(t.cols), func(c column) bool {
		_, computed := t.exprs[c.name]
		return computed || later && (c.name == t.key || c.name == "created_at")
	})
}

// args are the values of cols. A time of change that the caller left empty is now.
func (t table[T]) args(db *DB, row T, cols []column) ([]any, error) {
	v := reflect.ValueOf(&row).Elem()
	out := make([]any, len(cols))
	for i, c := range cols {
		if c.name == "created_at" || c.name == "updated_at" {
			if f := v.FieldByIndex(c.index); f.IsZero() {
				f.Set(reflect.ValueOf(db.cfg.Now()))
			}
		}
		var err error
		if out[i], err = c.arg(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (t table[T]) idOf(row T) string {
	c, _ := t.column(t.key)
	return reflect.ValueOf(row).FieldByIndex(c.index).String()
}

// rowsOfOneInsert keeps a statement well under SQLite's 32,766 values and MariaDB's packet size.
const rowsOfOneInsert = 100

// insert writes rows; tail is "" or what to do where one exists (dialect.keep, dialect.upsert with assignments).
func (t table[T]) insert(ctx context.Context, db *DB, tail string, rows ...T) error {
	cols := t.written(false)
	names := make([]string, len(cols))
	for i, c := range cols {
		names[i] = quote(c.name)
	}
	head := "INSERT INTO " + quote(t.name) + " (" + strings.Join(names, ", ") + ") VALUES "
	group := "(" + marks(len(cols)) + ")"
	for chunk := range slices.Chunk(rows, rowsOfOneInsert) {
		args := make([]any, 0, len(chunk)*len(cols))
		for _, row := range chunk {
			a, err := t.args(db, row, cols)
			if err != nil {
				return db.fail(ctx, err, t.resource, t.idOf(row))
			}
			args = append(args, a...)
		}
		values := strings.TrimSuffix(strings.Repeat(group+", ", len(chunk)), ", ")
		if _, err := db.exec(ctx, t.resource, t.idOf(chunk[0]), head+values+tail, args...); err != nil {
			return err
		}
	}
	return nil
}

// replaceTail is the tail of insert that makes an existing row equal to the given one, but for the columns named.
func (t table[T]) replaceTail(db *DB, but ...string) string {
	var sets []string
	for _, c := range t.written(true) {
		if !slices.Contains(but, c.name) {
			sets = append(sets, quote(c.name)+" = "+db.d.given(c.name))
		}
	}
	return db.d.upsert(t.key) + strings.Join(sets, ", ")
}

// update writes every column of the row of that id but created_at; errs.NotFound where there is none.
func (t table[T]) update(ctx context.Context, db *DB, row T, but ...string) error {
	cols := slices.DeleteFunc(t.written(true), func(c column) bool { return slices.Contains(but, c.name) })
	args, err := t.args(db, row, cols)
	if err != nil {
		return db.fail(ctx, err, t.resource, t.idOf(row))
	}
	sets := make([]string, len(cols))
	for i, c := range cols {
		sets[i] = quote(c.name) + " = ?"
	}
	query := "UPDATE " + quote(t.name) + " SET " + strings.Join(sets, ", ") + " WHERE " + quote(t.key) + " = ?"
	n, err := db.exec(ctx, t.resource, t.idOf(row), query, append(args, t.idOf(row))...)
	if err == nil && n == 0 {
		err = notFound(t.resource, t.idOf(row))
	}
	return err
}

// find reads the row where all the columns have the values; named is what a NotFound calls it.
func (t table[T]) find(ctx context.Context, db *DB, named string, where map[string]string) (T, error) {
	rows, err := t.all(ctx, db, where, " LIMIT 1")
	if err != nil {
		var zero T
		return zero, err
	}
	if len(rows) == 0 {
		var zero T
		return zero, notFound(t.resource, named)
	}
	return rows[0], nil
}

// byID reads the row of that id.
func (t table[T]) byID(ctx context.Context, db *DB, id string) (T, error) {
	return t.find(ctx, db, id, map[string]string{t.key: id})
}

// all reads the rows where all the columns have the values.
func (t table[T]) all(ctx context.Context, db *DB, where map[string]string, tail string) ([]T, error) {
	conds, args := []string{"1 = 1"}, []any{}
	for _, name := range slices.Sorted(maps.Keys(where)) {
		conds = append(conds, t.ref(name)+" = ?")
		args = append(args, where[name])
	}
	return t.query(ctx, db, " WHERE "+strings.Join(conds, " AND ")+tail, args...)
}

func (t table[T]) query(ctx context.Context, db *DB, tail string, args ...any) ([]T, error) {
	out := []T{}
	err := db.each(ctx, t.resource, "", func(r *sqlx.Rows) error {
		var row T
		if err := t.scan(r, &row); err != nil {
			return err
		}
		out = append(out, row)
		return nil
	}, t.selectFrom()+tail, args...)
	return out, err
}

// delete removes the row of that id and tells whether there was one.
func (t table[T]) delete(ctx context.Context, db *DB, id string) (bool, error) {
	n, err := db.exec(ctx, t.resource, id, "DELETE FROM "+quote(t.name)+" WHERE "+quote(t.key)+" = ?", id)
	return n > 0, err
}

func (db *DB) now() time.Time { return db.cfg.Now() }
