package cli

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/client"
)

// who asks which images have a package, or lack a fix.
func (a *app) who() *cobra.Command {
	cmd := &cobra.Command{Use: "who", Short: "Ask which images have a package, or lack a fix"}
	cmd.AddCommand(a.whoHas(), a.whoLacks())
	return cmd
}

func (a *app) whoHas() *cobra.Command {
	var source, all bool
	cmd := &cobra.Command{
		Use: "has PACKAGE [OPERATOR VERSION]", Short: "List the images that have a package",
		Long: "List the images that have a package, in any version or in those that an operator (<, <=, =, >=, >, or lt, lte, eq, gte, gt) picks.\n" +
			"Versions are compared by the rules of each image's distribution.",
		Example: "  kiln who has openssl '<' 3.0.17\n  kiln who has --source linux lt 6.1.150-1", Args: hasArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"name": {args[0]}}
			if source {
				q = url.Values{"source": {args[0]}}
			}
			if len(args) == 3 {
				op, err := advisory.OpOf(args[1])
				if err != nil {
					return err
				}
				q.Set("version", string(op)+":"+args[2])
			}
			columns := []string{"image_id", "image", "package", "version", "architecture", "running"}
			return a.askWho(cmd, q, all, columns, "has "+strings.Join(args, " "))
		},
	}
	cmd.Flags().BoolVar(&source, "source", false, "PACKAGE is a source package, and its version is compared")
	cmd.Flags().BoolVar(&all, "all-projects", false, "of every project")
	return cmd
}

func hasArgs(_ *cobra.Command, args []string) error {
	if len(args) != 1 && len(args) != 3 {
		return fmt.Errorf("write a package, or a package, an operator in quotes and a version: kiln who has openssl '<' 3.0.17")
	}
	return nil
}

func (a *app) whoLacks() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "lacks CVE|ADVISORY", Short: "List the images that lack the fix of a CVE, or an advisory",
		Example: "  kiln who lacks CVE-2026-1234\n  kiln who lacks bookworm-security/openssl/3.0.17-1~deb12u3/amd64", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"advisory": {args[0]}}
			if advisory.CheckCVE(strings.ToUpper(args[0])) == nil {
				q = url.Values{"cve": {strings.ToUpper(args[0])}}
			}
			columns := []string{"image_id", "image", "package", "version", "fixed", "suite", "urgency", "running"}
			return a.askWho(cmd, q, all, columns, "lacks "+args[0])
		},
	}
	cmd.Flags().BoolVar(&all, "all-projects", false, "of every project")
	return cmd
}

func (a *app) askWho(cmd *cobra.Command, q url.Values, all bool, columns []string, what string) error {
	c, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	if all {
		q.Set("all_projects", "true")
	}
	q.Set("limit", "1000")
	rows, err := client.ListAt[row](cmd.Context(), c, "/v1/packages", "packages", q)
	if err != nil {
		return err
	}
	if a.format != "table" || len(rows) > 0 {
		if rows == nil {
			rows = []row{}
		}
		if err := a.print(rows, columns); err != nil || a.format != "table" {
			return err
		}
	}
	images, running := map[any]bool{}, 0.0
	for _, r := range rows {
		if n, ok := r["running"].(float64); ok && !images[r["image_id"]] {
			running += n
		}
		images[r["image_id"]] = true
	}
	switch len(images) {
	case 0:
		_, err = fmt.Fprintf(a.out, "no image %s\n", what)
	case 1:
		_, err = fmt.Fprintf(a.out, "1 image, %s servers and containers run from it\n", number(running))
	default:
		_, err = fmt.Fprintf(a.out, "%d images, %s servers and containers run from them\n", len(images), number(running))
	}
	return err
}

// rank lists images by how urgent it is to upgrade them.
func (a *app) rank() *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "rank", Short: "List images, those first whose upgrade is the most urgent", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		q := url.Values{"sort": {"rank:desc,pending_updates:desc"}}
		if all {
			q.Set("all_projects", "true")
		}
		rows, err := client.ListAt[row](cmd.Context(), c, "/v1/images", "images", q)
		if err != nil {
			return err
		}
		for _, r := range rows {
			delete(r, "facts")
			lacks, _ := r["lacks"].(row)
			for _, u := range []string{advisory.Critical, advisory.High, advisory.Medium, advisory.Low} {
				r[u] = lacks[u]
			}
			if since, _ := r["pending_since"].(string); len(since) > len("2006-01-02") {
				r["pending since"] = since[:len("2006-01-02")]
			}
		}
		return a.print(rows, []string{"rank", "id", "name", "running", advisory.Critical, advisory.High, advisory.Medium, advisory.Low, "pending since"})
	}}
	cmd.Flags().BoolVar(&all, "all-projects", false, "of every project")
	return cmd
}
