// Package manage is the kiln-manage command.
package manage

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/config"
	"github.com/kiln-cloud/kiln/pkg/daemon"
	"github.com/kiln-cloud/kiln/pkg/identity/policy"
	"github.com/kiln-cloud/kiln/pkg/openstack"
	"github.com/kiln-cloud/kiln/pkg/openstack/keystone"
	"github.com/kiln-cloud/kiln/pkg/store"
	"github.com/kiln-cloud/kiln/pkg/version"
)

// tool is what the commands share.
type tool struct {
	out   io.Writer
	files []string
}

// needless are required options that only the programs need.
var needless = []string{"keystone_authtoken.auth_url", "keystone_authtoken.password"}

// New is the kiln-manage command with everything below it.
func New(out io.Writer) *cobra.Command {
	t := &tool{out: out}
	root := &cobra.Command{
		Use: "kiln-manage", Short: "Set Kiln up and look after it", Version: version.String(), SilenceUsage: true, SilenceErrors: true,
	}
	root.SetOut(out)
	root.PersistentFlags().StringArrayVar(&t.files, "config-file", nil, "configuration file; may be given several times, later ones win")
	db := &cobra.Command{Use: "db", Short: "The database's schema"}
	db.AddCommand(t.dbSync(), t.dbVersion())
	cfg := &cobra.Command{Use: "config", Short: "The configuration"}
	cfg.AddCommand(t.configSample(), t.configShow())
	pol := &cobra.Command{Use: "policy", Short: "The policy"}
	pol.AddCommand(t.policySample(), t.policyCheck())
	status := &cobra.Command{Use: "status", Short: "Checks"}
	status.AddCommand(t.upgradeCheck())
	root.AddCommand(db, cfg, pol, status, t.bootstrap(), t.proof())
	return root
}

func (t *tool) say(format string, args ...any) {
	fmt.Fprintf(t.out, format+"\n", args...) //nolint:errcheck // standard output
}

func (t *tool) load(skip ...string) (*config.Loaded, *logrus.Logger, error) {
	cfg, err := daemon.LoadConfig(t.files, skip...)
	if err != nil {
		return nil, nil, err
	}
	log, _, err := daemon.NewLogger("kiln-manage", cfg.Config)
	return cfg, log, err
}

func (t *tool) openStore(cmd *cobra.Command) (*store.DB, error) {
	cfg, log, err := t.load(needless...)
	if err != nil {
		return nil, err
	}
	sc, err := store.FromURL(cfg.Database.Connection)
	if err != nil {
		return nil, err
	}
	sc.Log = log
	return store.Open(cmd.Context(), sc)
}

func (t *tool) dbSync() *cobra.Command {
	return &cobra.Command{Use: "sync", Short: "Bring the schema to this program's version; safe to repeat, and to run on several hosts at once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			db, err := t.openStore(cmd)
			if err != nil {
				return err
			}
			defer db.Close() //nolint:errcheck // the program ends
			if err := db.Migrate(cmd.Context()); err != nil {
				return err
			}
			v, err := db.Version(cmd.Context())
			t.say("schema %d", v)
			return err
		}}
}

func (t *tool) dbVersion() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Tell the schema of the database and of this program", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			db, err := t.openStore(cmd)
			if err != nil {
				return err
			}
			defer db.Close() //nolint:errcheck // the program ends
			have, want, err := versions(cmd, db)
			t.say("database %d, program %d", have, want)
			return err
		}}
}

func versions(cmd *cobra.Command, db *store.DB) (have, want uint, err error) {
	if have, err = db.Version(cmd.Context()); err != nil {
		return have, 0, err
	}
	want, err = store.LatestVersion()
	return have, want, err
}

func (t *tool) configSample() *cobra.Command {
	return &cobra.Command{Use: "sample", Short: "Write a configuration file with every option and its default", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return config.Sample(t.out) }}
}

func (t *tool) configShow() *cobra.Command {
	return &cobra.Command{Use: "show", Short: "Write the configuration in force, secrets masked; all its faults at once", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := daemon.LoadConfig(t.files)
			if err != nil {
				return err
			}
			for _, w := range cfg.Warnings {
				t.say("# %s", w)
			}
			return config.Show(t.out, cfg.Config)
		}}
}

func (t *tool) policySample() *cobra.Command {
	return &cobra.Command{Use: "sample", Short: "Write a policy file with every rule and its default", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(t.out, policy.Sample())
			return err
		}}
}

func (t *tool) policyCheck() *cobra.Command {
	return &cobra.Command{Use: "check [FILE]", Short: "Check a policy file; the configured one where left out", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			file := ""
			if len(args) > 0 {
				file = args[0]
			} else {
				cfg, err := daemon.LoadConfig(t.files, needless...)
				if err != nil {
					return err
				}
				file = cfg.Policy.File
			}
			_, warnings, err := policy.Load(file)
			for _, w := range warnings {
				t.say("%s", w)
			}
			if err == nil {
				t.say("%s is valid", file)
			}
			return err
		}}
}

// upgradeCheck answers as oslo.upgradecheck does: exit 0 for success, 1 for warnings, 2 for failures.
func (t *tool) upgradeCheck() *cobra.Command {
	status := &cobra.Command{Use: "upgrade", Short: "Checks around an upgrade of Kiln itself"}
	status.AddCommand(&cobra.Command{Use: "check", Short: "Tell whether this version can start on what is there", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			db, err := t.openStore(cmd)
			if err != nil {
				return err
			}
			defer db.Close() //nolint:errcheck // the program ends
			have, want, err := versions(cmd, db)
			switch {
			case err != nil:
				return err
			case have > want:
				return fmt.Errorf("schema: failure: the database has %d, this program knows %d only", have, want)
			case have < want:
				return fmt.Errorf("schema: failure: the database has %d, this program needs %d: run kiln-manage db sync", have, want)
			}
			t.say("schema: success (%d)", have)
			return nil
		}})
	return status
}

func (t *tool) bootstrap() *cobra.Command {
	r, f := keystone.Registration{}, forges{}
	cmd := &cobra.Command{Use: "bootstrap", Short: "Register Kiln in Keystone: roles, service user, catalog; safe to repeat",
		Long: "Register Kiln in Keystone: roles, service user, catalog; safe to repeat.\n\n" +
			"Logs in as an administrator with OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME. The service user gets the roles service and\n" +
			"admin in its project, and admin inherited by the projects of its domain: Kiln places servers and publishes images in them.\n\n" +
			"With --gitlab or --jenkins and without --public-url only those are set up, with the source in the project that is logged in to.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, log, err := t.load(needless...)
			if err != nil {
				return err
			}
			if r.Password == "" {
				r.Password = cfg.Keystone.Password
			}
			if r.User == "" {
				r.User, r.Project = cfg.Keystone.Username, cfg.Keystone.Project
			}
			admin := openstack.Config{
				AuthURL: os.Getenv("OS_AUTH_URL"), Username: os.Getenv("OS_USERNAME"), Password: os.Getenv("OS_PASSWORD"), ProjectName: os.Getenv("OS_PROJECT_NAME"),
				UserDomain: os.Getenv("OS_USER_DOMAIN_NAME"), ProjectDomain: os.Getenv("OS_PROJECT_DOMAIN_NAME"), Interface: "public", CACert: os.Getenv("OS_CACERT"), Log: log,
			}
			if admin.AuthURL == "" || admin.Username == "" {
				return errors.New("set OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME of an administrator")
			}
			cloud, err := openstack.Connect(cmd.Context(), admin)
			if err != nil {
				return err
			}
			if f.asked() && r.Public == "" { // Kiln is registered already
				return f.run(cmd.Context(), t, cloud)
			}
			changed, err := keystone.New(cloud).Bootstrap(cmd.Context(), r)
			t.report(changed, err)
			if err != nil || !f.asked() {
				return err
			}
			return f.run(cmd.Context(), t, cloud)
		}}
	f.flags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&r.Public, "public-url", "", "address of the API for users")
	flags.StringVar(&r.Internal, "internal-url", "", "address for other services; public-url where left out")
	flags.StringVar(&r.Admin, "admin-url", "", "address for administrators; public-url where left out")
	flags.StringVar(&r.Region, "region", "RegionOne", "region of the endpoints")
	flags.StringVar(&r.User, "user", "", "service user; [keystone_authtoken] username where left out")
	flags.StringVar(&r.Project, "project", "service", "its project")
	return cmd
}
