package engine

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

// imageNotice is Glance's payload (glance/notifier.py format_image_notification).
type imageNotice struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Owner      string         `json:"owner"`
	Visibility string         `json:"visibility"`
	Tags       []string       `json:"tags"`
	Size       int64          `json:"size"`
	Properties map[string]any `json:"properties"`
}

// Notice acts on one notification of Nova or Glance. They are hints: one that is lost costs at most one SyncInterval or
// one sweep of the images, one that comes twice changes nothing.
func (e *Engine) Notice(ctx context.Context, eventType string, payload json.RawMessage) error {
	switch {
	case strings.HasPrefix(eventType, "image."):
		return e.imageNotice(ctx, strings.TrimPrefix(eventType, "image."), payload)
	case strings.HasPrefix(eventType, "instance.delete.end"), strings.HasPrefix(eventType, "instance.live_migration_post_dest.end"),
		strings.HasPrefix(eventType, "instance.resize_confirm.end"), strings.HasPrefix(eventType, "service."):
		e.Nudge()
	}
	return nil
}

func (e *Engine) imageNotice(ctx context.Context, verb string, payload json.RawMessage) error {
	var img imageNotice
	if verb != "activate" && verb != "update" && verb != "delete" {
		return nil // image.send comes with every read, and says nothing of its image
	}
	if err := json.Unmarshal(payload, &img); err != nil || img.ID == "" {
		return nil //nolint:nilerr // not an image that can be asked for; the envelope was whole, so a repeat would not help
	}
	switch verb {
	case "activate":
		return e.imageAppeared(ctx, img)
	case "update":
		return e.imageChanged(ctx, img.ID)
	}
	return e.bury(ctx, img.ID, img.Owner)
}

// imageAppeared asks for the facts of an image that somebody else uploaded. Kiln's own come with their facts. Glance
// is not asked: it notifies before it writes that the image is active.
func (e *Engine) imageAppeared(ctx context.Context, img imageNotice) error {
	if _, own := img.Properties[catalog.PropOrigin]; own {
		return nil
	}
	g := catalog.GlanceImage{ID: img.ID, Name: img.Name, Owner: img.Owner, Status: "active", Visibility: img.Visibility, Tags: img.Tags, Size: img.Size, CreatedAt: e.Now()}
	takes, err := e.Collect.Takes(g, func() ([]string, error) { return e.Glance.Members(ctx, img.ID) })
	if err != nil || !takes {
		return err
	}
	row, err := e.head(ctx, img.ID)
	if err != nil || row != nil && row.State != catalog.Waiting {
		return err // it was read before this notification came
	}
	if row == nil {
		fresh := catalog.ImageOf(g, e.Now())
		row = &fresh
	}
	_, err = e.inspect(ctx, wanted{*row, g, "never read"})
	return err
}

// imageChanged brings Kiln's row in step: a name, an owner, tags, whom it is shown to, whether it is barred. What a
// notification says may be older than what another one said, so Glance is asked.
func (e *Engine) imageChanged(ctx context.Context, id string) error {
	row, err := e.head(ctx, id)
	if err != nil {
		return err
	}
	g, err := e.Glance.Image(ctx, id)
	switch {
	case errs.Is(err, errs.NotFound) && row != nil:
		return e.bury(ctx, id, row.ProjectID)
	case errs.Is(err, errs.NotFound):
		return nil
	case err != nil:
		return err
	}
	known := row != nil
	if !known {
		row = &catalog.Image{}
	}
	w, err := e.follow(ctx, g, *row, known)
	if err != nil || w == nil {
		return err
	}
	_, err = e.inspect(ctx, *w) // now it is to be read: somebody tagged it, or shows it
	return err
}
