// Package listing is the shape of every list question: which rows, in which order, from where, how many.
// It follows the API-SIG pagination guideline (limit, marker, sort); the store answers it and the API parses it.
package listing

import "maps"

// MaxLimit is the most rows of one page; DefaultLimit is used where the caller names none.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// Key is one sort key. Field is the JSON name of a field of the listed resource.
type Key struct {
	Field string
	Desc  bool
}

// Query is one list question. Filter holds JSON field names with the exact value asked for.
// ProjectID restricts to one project; "" means all, which only callers that policy lets may ask.
// Marker is the id of the last row of the page before; "" starts at the beginning.
type Query struct {
	ProjectID string
	Filter    map[string]string
	Sort      []Key
	Marker    string
	Limit     int
}

// All is the question for the rows of every project, in the default order. It answers MaxLimit of them at the most:
// where there may be more, ask through Rows or Read.
func All() Query { return Query{Limit: MaxLimit} }

// Where returns a copy of the query that also asks for field = value.
func (q Query) Where(field, value string) Query {
	f := make(map[string]string, len(q.Filter)+1)
	maps.Copy(f, q.Filter)
	f[field] = value
	q.Filter = f
	return q
}
