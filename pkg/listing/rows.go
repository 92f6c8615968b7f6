package listing

import (
	"context"
	"iter"
)

// Page answers a list question with at most Limit rows.
type Page[T any] func(ctx context.Context, q Query) ([]T, error)

// Rows reads a list to its end, page by page. id gives what a page's marker is made of. An error comes last, with a
// zero row; one comes where the row that a page ended with is gone, or no longer in the list, before the next is read.
func Rows[T any](ctx context.Context, q Query, page Page[T], id func(T) string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			rows, err := page(ctx, q)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, row := range rows {
				if !yield(row, nil) {
					return
				}
			}
			if len(rows) < q.Limit {
				return
			}
			q.Marker = id(rows[len(rows)-1])
		}
	}
}

// Read gives all that Rows reads.
func Read[T any](ctx context.Context, q Query, page Page[T], id func(T) string) ([]T, error) {
	var all []T
	for row, err := range Rows(ctx, q, page, id) {
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, nil
}
