package listing_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"

	"github.com/kiln-cloud/kiln/pkg/listing"
)

// numbers is a list of 0 to n-1, whose rows are their own ids.
func numbers(n int, asked *int) listing.Page[int] {
	return func(_ context.Context, q listing.Query) ([]int, error) {
		*asked++
		from := 0
		if q.Marker != "" {
			last, err := strconv.Atoi(q.Marker)
			if err != nil {
				return nil, err
			}
			from = last + 1
		}
		var rows []int
		for i := from; i < min(from+q.Limit, n); i++ {
			rows = append(rows, i)
		}
		return rows, nil
	}
}

func TestReadGoesToTheEnd(t *testing.T) {
	for n, pages := range map[int]int{0: 1, 1: 1, 2: 1, 3: 2, 7: 3} {
		asked := 0
		all, err := listing.Read(t.Context(), listing.Query{Limit: 3}, numbers(n, &asked), strconv.Itoa)
		if err != nil || len(all) != n || asked != pages || !slices.IsSorted(all) {
			t.Errorf("%d rows: %v in %d pages, %v", n, all, asked, err)
		}
	}
}

func TestRowsEndEarly(t *testing.T) {
	asked := 0
	for row, err := range listing.Rows(t.Context(), listing.Query{Limit: 2}, numbers(10, &asked), strconv.Itoa) {
		if err != nil || row == 3 {
			break
		}
	}
	if asked != 2 {
		t.Errorf("%d pages for four rows of two a page", asked)
	}
	broken := errors.New("away")
	all, err := listing.Read(t.Context(), listing.All(), func(context.Context, listing.Query) ([]int, error) { return nil, broken }, strconv.Itoa)
	if !errors.Is(err, broken) || all != nil {
		t.Errorf("%v, %v", all, err)
	}
}
