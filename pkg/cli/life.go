package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	gotable "github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/client"
)

func familyPath(name string, rest ...string) string {
	parts := []string{"/v1/families", url.PathEscape(name)}
	for _, r := range rest {
		parts = append(parts, url.PathEscape(r))
	}
	return strings.Join(parts, "/")
}

// channel has the verbs of channels, which have no list of their own: a family shows them.
func (a *app) channel() *cobra.Command {
	cmd := &cobra.Command{Use: "channel", Aliases: []string{"channels"}, Short: "names that point to versions of families"}
	cmd.AddCommand(a.promote(), a.rollBack(), a.history())
	return cmd
}

func (a *app) promote() *cobra.Command {
	var reason string
	cmd := &cobra.Command{Use: "promote FAMILY CHANNEL VERSION", Short: "Let a channel point to a version", Args: cobra.ExactArgs(3), RunE: func(cmd *cobra.Command, args []string) error {
		body := row{"version": args[2], "reason": reason}
		return a.change(cmd, http.MethodPut, familyPath(args[0], "channels", args[1]), body, nil)
	}}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the history")
	return cmd
}

func (a *app) rollBack() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "rollback FAMILY CHANNEL", Short: "Let a channel point to what it pointed to before", Args: cobra.ExactArgs(2),
		Long: "Let a channel point to the version that it pointed to before its present one. Versions that are revoked or deleted are\npassed over. Again goes one step further back; to go forth, promote a version.",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var r catalog.RolledBack
		return a.change(cmd, http.MethodPost, familyPath(args[0], "channels", args[1], "rollback"), row{"reason": reason}, told(&r, func() {
			for _, s := range r.Skipped {
				a.line("passed over %s: %s", s.Version, s.Why)
			}
			a.line("channel %s of %s: %s → %s", r.Channel, r.Family, r.From, r.To)
		}))
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the history")
	return cmd
}

func (a *app) history() *cobra.Command {
	return &cobra.Command{Use: "history FAMILY CHANNEL", Short: "List the moves of a channel, newest first", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		rows, err := client.ListAt[row](cmd.Context(), c, familyPath(args[0], "channels", args[1], "history"), "moves", nil)
		if err != nil {
			return err
		}
		return a.print(rows, []string{"at", "kind", "before", "version", "user_id", "reason"})
	}}
}

// telling reads an answer into a value and tells it in words; nil shows the fields.
type telling struct {
	into any
	tell func()
}

func told(into any, tell func()) *telling { return &telling{into, tell} }

func (a *app) line(format string, args ...any) {
	fmt.Fprintf(a.out, format+"\n", args...) //nolint:errcheck // standard output
}

// change makes a call that answers at once.
func (a *app) change(cmd *cobra.Command, method, path string, body row, t *telling) error {
	c, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	call := c.Post
	switch method {
	case http.MethodPut:
		call = c.Put
	case http.MethodPatch:
		call = c.Patch
	}
	if t == nil {
		var r row
		if err := call(cmd.Context(), path, body, &r); err != nil {
			return err
		}
		return a.show(r)
	}
	if err := call(cmd.Context(), path, body, t.into); err != nil {
		return err
	}
	if a.format == "json" {
		return a.json(t.into)
	}
	t.tell()
	return nil
}

func (a *app) revoke() *cobra.Command {
	var reason string
	var dry bool
	cmd := &cobra.Command{
		Use: "revoke FAMILY VERSION", Short: "Forbid a version and what was made from it: nothing is started or built from it again", Args: cobra.ExactArgs(2),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var r catalog.Revocation
		path := familyPath(args[0], "versions", args[1], "revoke")
		if dry {
			path += "?dry_run=true"
		}
		return a.change(cmd, http.MethodPost, path, row{"reason": reason}, told(&r, func() {
			verb, move := "revoked", "moved"
			if r.DryRun {
				verb, move = "would be revoked", "would move"
			}
			for _, v := range r.Revoked {
				a.line("%s/%s (image %s) %s: %s", v.Family, v.Version, v.ImageID, verb, v.Because)
			}
			for _, c := range r.Channels {
				to := c.To
				if to == "" {
					to = "nothing: no older version is left"
				}
				a.line("channel %s of %s %s: %s → %s", c.Channel, c.Family, move, c.From, to)
			}
			if len(r.Revoked) == 0 {
				a.line("nothing to do: it is revoked with all that was made from it")
			}
		}))
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; kept with each version and in Glance")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only tell what would be done")
	return cmd
}

func (a *app) unrevoke() *cobra.Command {
	return &cobra.Command{Use: "unrevoke FAMILY VERSION", Short: "Take a revocation back, with all that it revoked", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		var r catalog.Unrevoked
		return a.change(cmd, http.MethodPost, familyPath(args[0], "versions", args[1], "unrevoke"), row{}, told(&r, func() {
			for _, v := range r.Restored {
				a.line("%s/%s may be used again", v.Family, v.Version)
			}
			for _, k := range r.Kept {
				a.line("%s stays revoked: %s", k.Version, k.Why)
			}
			a.line("channels stay where they are: promote a version to move one")
		}))
	}}
}

// pin is pin and unpin.
func (a *app) pin(verb, about string) *cobra.Command {
	var note string
	cmd := &cobra.Command{Use: verb + " FAMILY VERSION", Short: about, Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		return a.change(cmd, http.MethodPost, familyPath(args[0], "versions", args[1], verb), row{"note": note}, nil)
	}}
	cmd.Flags().StringVar(&note, "note", "", "why")
	return cmd
}

func (a *app) setFamily() *cobra.Command {
	var description string
	var count, days int
	cmd := &cobra.Command{Use: "set FAMILY", Short: "Change the description and the retention of a family", Args: cobra.ExactArgs(1)}
	cmd.Flags().StringVar(&description, "description", "", "one sentence")
	cmd.Flags().IntVar(&count, "keep-count", 0, "keep so many of the newest versions")
	cmd.Flags().IntVar(&days, "keep-days", 0, "keep versions that are younger than so many days")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		var f catalog.Family
		if err := c.Get(cmd.Context(), familyPath(args[0]), &f); err != nil {
			return err
		}
		body := row{}
		if cmd.Flags().Changed("description") {
			body["description"] = description
		}
		if cmd.Flags().Changed("keep-count") {
			f.Retention.KeepCount = &count
		}
		if cmd.Flags().Changed("keep-days") {
			f.Retention.KeepDays = &days
		}
		body["retention"] = f.Retention
		return a.change(cmd, http.MethodPatch, familyPath(args[0]), body, nil)
	}
	return cmd
}

func (a *app) retention() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{Use: "retention FAMILY", Short: "Delete the versions that nothing keeps, and say why the others stay", Args: cobra.ExactArgs(1)}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only tell what would be done")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		path := familyPath(args[0], "retention")
		if dry {
			path += "?dry_run=true"
		}
		var started struct {
			JobID string `json:"job_id"`
		}
		if err := c.Post(cmd.Context(), path, nil, &started); err != nil {
			return err
		}
		if _, err := c.WaitJob(cmd.Context(), started.JobID, 300*time.Millisecond, func(client.JobUpdate) {}); err != nil {
			return err
		}
		var j struct {
			Result catalog.RetentionReport `json:"result"`
		}
		if err := c.Get(cmd.Context(), "/v1/jobs/"+url.PathEscape(started.JobID), &j); err != nil {
			return err
		}
		if a.format == "json" {
			return a.json(j.Result)
		}
		rows := make([]gotable.Row, len(j.Result.Versions))
		for i, v := range j.Result.Versions {
			rows[i] = gotable.Row{v.Version, v.Fate, strings.Join(v.Why, "\n")}
		}
		return a.wide(gotable.Row{"version", "fate", "why"}, rows)
	}
	return cmd
}

// wide writes a table whose cells are not cut.
func (a *app) wide(head gotable.Row, rows []gotable.Row) error {
	t := gotable.NewWriter()
	t.SetStyle(gotable.StyleLight)
	t.AppendHeader(head)
	t.AppendRows(rows)
	_, err := fmt.Fprintln(a.out, t.Render())
	return err
}

var imageID = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}$`)

func (a *app) lint() *cobra.Command {
	var whole bool
	cmd := &cobra.Command{
		Use: "lint IMAGE|FAMILY…", Short: "Hold images against the SCS image metadata standard (" + catalog.Standard + ")",
		Long: "Hold images against the SCS image metadata standard (" + catalog.Standard + "): an image by its id, the versions of a family that are not\nrevoked or deleted, or with --all every image of the project. An error ends the command with status 1.",
	}
	cmd.Flags().BoolVar(&whole, "all", false, "every image of the project")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if whole == (len(args) > 0) {
			return errors.New("name images or families, or give --all")
		}
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		ids, err := a.linted(cmd, c, args, whole)
		if err != nil {
			return err
		}
		reports, faults := []catalog.LintReport{}, 0
		for _, id := range ids {
			var r catalog.LintReport
			err := c.Get(cmd.Context(), "/v1/images/"+url.PathEscape(id)+"/lint", &r)
			if e, ok := errors.AsType[*client.Error](err); ok && e.Status == http.StatusNotFound && whole {
				continue // Kiln keeps what it read of images that Glance has no more
			}
			if err != nil {
				return fmt.Errorf("image %s: %w", id, err)
			}
			reports = append(reports, r)
			faults += r.Errors
		}
		if err := a.reports(reports); err != nil {
			return err
		}
		if faults > 0 {
			return fmt.Errorf("%d errors in %d images", faults, len(reports))
		}
		return nil
	}
	return cmd
}

// linted are the ids of the images that lint is asked for.
func (a *app) linted(cmd *cobra.Command, c *client.Client, args []string, whole bool) ([]string, error) {
	var ids []string
	if whole {
		images, err := client.ListAt[catalog.Image](cmd.Context(), c, "/v1/images", "images", nil)
		for _, i := range images {
			ids = append(ids, i.ID)
		}
		return ids, err
	}
	for _, arg := range args {
		if imageID.MatchString(arg) {
			ids = append(ids, arg)
			continue
		}
		versions, err := client.ListAt[catalog.Version](cmd.Context(), c, familyPath(arg, "versions"), "versions", nil)
		if err != nil {
			return nil, err
		}
		for _, v := range versions {
			if v.State.Usable() {
				ids = append(ids, v.ImageID)
			}
		}
	}
	return ids, nil
}

func (a *app) reports(reports []catalog.LintReport) error {
	if a.format == "json" {
		return a.json(reports)
	}
	var rows []gotable.Row
	for _, r := range reports {
		for _, f := range r.Findings {
			rows = append(rows, gotable.Row{r.Name + "\n" + r.ImageID, f.Level, f.Rule, f.Found, f.Wanted})
		}
		if len(r.Findings) == 0 {
			rows = append(rows, gotable.Row{r.Name + "\n" + r.ImageID, "ok", "", "", ""})
		}
	}
	return a.wide(gotable.Row{"image", "level", "rule", "found", "wanted"}, rows)
}
