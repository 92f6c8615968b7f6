package store

import (
	"context"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/errs"
	"github.com/kiln-cloud/kiln/pkg/listing"
)

// list answers a listing.Query by keyset: the rows after the marker's row in the wanted order, with the id as
// the last sort key, so that rows which come and go never shift a page.
func (t table[T]) list(ctx context.Context, db *DB, q listing.Query) ([]T, error) {
	conds, args, err := t.conditions(q)
	if err != nil {
		return nil, err
	}
	keys, err := t.sortKeys(q.Sort)
	if err != nil {
		return nil, err
	}
	if q.Marker != "" {
		cond, values, err := t.after(ctx, db, q.Marker, keys, conds, args)
		if err != nil {
			return nil, err
		}
		conds, args = append(conds, cond), append(args, values...)
	}
	order := make([]string, len(keys))
	for i, k := range keys {
		order[i] = t.ref(k.Field)
		if k.Desc {
			order[i] += " DESC"
		}
	}
	tail := " WHERE " + strings.Join(conds, " AND ") + " ORDER BY " + strings.Join(order, ", ") + " LIMIT " + strconv.Itoa(limitOf(q.Limit))
	return t.query(ctx, db, tail, args...)
}

// limitOf lets one row more than MaxLimit through: callers ask for it to learn whether a next page exists.
func limitOf(limit int) int {
	if limit < 1 {
		return listing.DefaultLimit
	}
	return min(limit, listing.MaxLimit+1)
}

func (t table[T]) conditions(q listing.Query) (conds []string, args []any, err error) {
	conds = []string{"1 = 1"}
	if q.ProjectID != "" && t.project {
		conds, args = append(conds, t.ref("project_id")+" = ?"), append(args, q.ProjectID)
	}
	names := make([]string, 0, len(q.Filter))
	for name := range q.Filter {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if !slices.Contains(t.filters, name) {
			return nil, nil, errs.New(errs.Invalid, "kiln.query.filter", "a list of %ss cannot be filtered by %q; it can by %s",
				t.resource, name, strings.Join(t.filters, ", ")).At(errs.Where{Field: name})
		}
		arg, err := t.filterValue(name, q.Filter[name])
		if err != nil {
			return nil, nil, err
		}
		conds, args = append(conds, t.ref(name)+" = ?"), append(args, arg)
	}
	return conds, args, nil
}

func (t table[T]) filterValue(name, value string) (any, error) {
	c, _ := t.column(name)
	var v any = value
	var err error
	switch c.typ.Kind() {
	case reflect.Bool:
		v, err = strconv.ParseBool(value)
	case reflect.Int, reflect.Int64:
		v, err = strconv.ParseInt(value, 10, 64)
	}
	if err != nil {
		return nil, errs.New(errs.Invalid, "kiln.query.filter", "%q is not a value of %s", value, name).At(errs.Where{Field: name})
	}
	return v, nil
}

// sortKeys checks the wanted keys and ends them with the id, in the direction of the last one.
func (t table[T]) sortKeys(keys []listing.Key) ([]listing.Key, error) {
	if len(keys) == 0 {
		keys = t.order
	}
	var out []listing.Key
	for _, k := range keys {
		if k.Field != t.key && !slices.Contains(t.sorts, k.Field) {
			return nil, errs.New(errs.Invalid, "kiln.query.sort", "a list of %ss cannot be sorted by %q; it can by %s",
				t.resource, k.Field, strings.Join(append([]string{t.key}, t.sorts...), ", ")).At(errs.Where{Field: "sort"})
		}
		out = append(out, k)
		if k.Field == t.key {
			return out, nil
		}
	}
	desc := len(out) > 0 && out[len(out)-1].Desc
	return append(out, listing.Key{Field: t.key, Desc: desc}), nil
}

// after is the condition "behind the marker's row". The marker must be a row that the caller may see.
func (t table[T]) after(ctx context.Context, db *DB, marker string, keys []listing.Key, conds []string, args []any) (string, []any, error) {
	refs := make([]string, len(keys))
	values, dests := make([]any, len(keys)), make([]any, len(keys))
	for i, k := range keys {
		refs[i] = t.ref(k.Field)
		dests[i] = &values[i]
	}
	query := "SELECT " + strings.Join(refs, ", ") + " FROM " + t.from + " WHERE " + strings.Join(conds, " AND ") + " AND " + t.ref(t.key) + " = ?"
	found, err := db.one(ctx, t.resource, marker, dests, query, append(slices.Clone(args), marker)...)
	if err != nil {
		return "", nil, err
	}
	if !found {
		return "", nil, errs.New(errs.Invalid, "kiln.query.marker", "the marker %q is not the id of a %s in this list", marker, t.resource).
			At(errs.Where{Field: "marker"})
	}
	var ors []string
	var out []any
	for i, k := range keys {
		var ands []string
		for j := range i {
			ands, out = append(ands, refs[j]+" = ?"), append(out, text(values[j]))
		}
		op := " > ?"
		if k.Desc {
			op = " < ?"
		}
		ands, out = append(ands, refs[i]+op), append(out, text(values[i]))
		ors = append(ors, "("+strings.Join(ands, " AND ")+")")
	}
	return "(" + strings.Join(ors, " OR ") + ")", out, nil
}

// text undoes what drivers do to text columns that are scanned into an any.
func text(v any) any {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return v
}

// countOf reads one number.
func (db *DB) countOf(ctx context.Context, resource, query string, args ...any) (int64, error) {
	var n int64
	err := db.each(ctx, resource, "", func(r *sqlx.Rows) error { return r.Scan(&n) }, query, args...)
	return n, err
}
