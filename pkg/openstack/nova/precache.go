package nova

import (
	"context"
	"net/http"
	"strconv"

	"github.com/kiln-cloud/kiln/pkg/openstack"
)

// Aggregate is a set of compute hosts that an operator made.
type Aggregate struct {
	ID    int      `json:"id"`
	Name  string   `json:"name"`
	Hosts []string `json:"hosts"` // service hosts
}

// Aggregates lists the host aggregates.
func (c *Client) Aggregates(ctx context.Context) ([]Aggregate, error) {
	var answer struct {
		Aggregates []Aggregate `json:"aggregates"`
	}
	err := c.service.Get(ctx, "aggregates", "os-aggregates", nil, &answer)
	return answer.Aggregates, err
}

// Precache asks all hosts of an aggregate to fetch the image into their cache. There is no job: how it goes is seen
// only in the notifications aggregate.cache_images.*. One image a request, because Nova's schema takes several
// for duplicates of each other by the order of a set
// (https://opendev.org/openstack/nova/src/branch/stable/zed/nova/api/openstack/compute/aggregates.py, images).
func (c *Client) Precache(ctx context.Context, aggregate int, imageID string) error {
	return c.service.Do(ctx, openstack.Call{
		Operation: "precache", Method: http.MethodPost, Path: "os-aggregates/" + strconv.Itoa(aggregate) + "/images",
		Body: map[string]any{"cache": []map[string]string{{"id": imageID}}},
	})
}
