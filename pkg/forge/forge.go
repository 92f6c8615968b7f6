// Package forge sets up what works with Kiln outside of OpenStack: a project of recipes in GitLab, and a pipeline in
// Jenkins. Both follow the published API documents; each call says which.
package forge

import (
	"context"

	"github.com/kiln-cloud/kiln/pkg/build"
)

// Source is a source as Kiln's API gives it.
type Source struct {
	build.Source

	WebhookURL string `json:"webhook_url"`
	Secret     string `json:"secret"` // only in the answer that makes it
}

// Kiln is what is asked of Kiln's API.
type Kiln interface {
	// FindSource gives the source of the name in the caller's project; nil without an error where there is none.
	FindSource(ctx context.Context, name string) (*Source, error)
	CreateSource(ctx context.Context, n build.NewSource) (Source, error)
	RenewSecret(ctx context.Context, id string) (Source, error)
}

// Done is what a run changed, in words; empty where all was there already.
type Done []string
