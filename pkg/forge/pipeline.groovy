// Builds one recipe with Kiln and reports what came of it. Made by kiln-manage bootstrap --jenkins, which writes
// it anew when it changes. It needs the program kiln on the agent and a credential of the kind "user name with
// password" called kiln-application-credential: the id and the secret of an application credential of Keystone.
pipeline {
    agent any
    options { timeout(time: 2, unit: 'HOURS'); disableConcurrentBuilds() }
    environment {
        KILN_ENDPOINT = '@KILN_ENDPOINT@'
        OS_AUTH_URL = '@OS_AUTH_URL@'
        OS_AUTH_TYPE = 'v3applicationcredential'
    }
    stages {
        stage('Build') {
            steps {
                withCredentials([usernamePassword(credentialsId: 'kiln-application-credential',
                        usernameVariable: 'OS_APPLICATION_CREDENTIAL_ID', passwordVariable: 'OS_APPLICATION_CREDENTIAL_SECRET')]) {
                    sh 'kiln --format json build create --source "$SOURCE" --recipe "$RECIPE" > build.json'
                }
            }
        }
    }
    post {
        always { archiveArtifacts artifacts: 'build.json', allowEmptyArchive: true }
        success {
            script {
                def version = sh(returnStdout: true, script: 'sed -n \'s/^ *"version": "\\(.*\\)",*$/\\1/p\' build.json').trim()
                currentBuild.description = params.RECIPE + ' ' + version
            }
        }
        failure { script { currentBuild.description = params.RECIPE + ' failed: the log has the reason' } }
    }
}
