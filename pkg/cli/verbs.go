package cli

import (
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/client"
	"github.com/kiln-cloud/kiln/pkg/event"
)

func (a *app) versions() *cobra.Command {
	return &cobra.Command{Use: "versions NAME", Short: "List the versions of a family", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		rows, err := client.ListAt[row](cmd.Context(), c, "/v1/families/"+url.PathEscape(args[0])+"/versions", "versions", nil)
		if err != nil {
			return err
		}
		return a.print(rows, []string{"name", "state", "origin", "parent_version", "image_id"})
	}}
}

func (a *app) pending() *cobra.Command {
	return &cobra.Command{Use: "pending ID", Short: "List the published fixes that an image lacks", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		rows, err := client.ListAt[row](cmd.Context(), c, "/v1/images/"+url.PathEscape(args[0])+"/advisories", "pending", nil)
		if err != nil {
			return err
		}
		return a.print(rows, []string{"package", "installed", "fixed", "suite", "urgency", "cves"})
	}}
}

func (a *app) events() *cobra.Command {
	var after int64
	cmd := &cobra.Command{Use: "events", Short: "Follow what happens", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		return c.Events(cmd.Context(), after, func(e event.Event) error {
			if a.format == "json" {
				return a.json(e)
			}
			_, err := fmt.Fprintf(a.out, "%s %6d %-24s %s\n", e.CreatedAt.Format("15:04:05"), e.ID, e.Type, e.Resource)
			return err
		})
	}}
	cmd.Flags().Int64Var(&after, "after", 0, "number of the last event that was seen")
	return cmd
}
